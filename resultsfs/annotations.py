"""Annotations of ours on namespaces, Tasks and runs, beside those that are settings (`resultsfs.dev/<setting>`)."""

from __future__ import annotations

from collections.abc import Mapping

from resultsfs.errors import InvalidSetting

PREFIX = "resultsfs.dev/"

INJECT = PREFIX + "inject"
"""`"false"` on a namespace or a run: its pods stay as they are."""
HOLD = PREFIX + "hold"
"""`"true"` on a run or namespace: its content stays whatever retention says. Read it by `is_held`."""
RESOLVED = PREFIX + "resolved"
"""What was put back into a run: param → SHA-256 and size."""
REFERENCES = PREFIX + "references"
"""The references that a run was given as paths; their content stays while the run is there."""

BY_PEOPLE = (INJECT, HOLD)
BY_ADMISSION = (RESOLVED, REFERENCES)


def is_held(annotations: Mapping[str, str]) -> bool:
    """Whether they hold content. Raises InvalidSetting where that cannot be told: then nobody may take it for a no."""
    found = annotations.get(HOLD, "false")
    if found not in ("true", "false"):
        raise InvalidSetting(f'annotation {HOLD} is {found!r}: expected "true" or "false"')
    return found == "true"
