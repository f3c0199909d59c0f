"""Annotations of ours on namespaces, Tasks and runs, beside those that are settings (`resultsfs.dev/<setting>`)."""

from __future__ import annotations

PREFIX = "resultsfs.dev/"

INJECT = PREFIX + "inject"
"""`"false"` on a namespace or a run: its pods stay as they are."""
HOLD = PREFIX + "hold"
"""`"true"` on a run or namespace: its content stays whatever retention says."""
RESOLVED = PREFIX + "resolved"
"""What was put back into a run: param → SHA-256 and size."""
REFERENCES = PREFIX + "references"
"""The references that a run was given as paths; their content stays while the run is there."""

BY_PEOPLE = (INJECT, HOLD)
BY_ADMISSION = (RESOLVED, REFERENCES)
