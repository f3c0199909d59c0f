"""Tekton's feature flags, changed for a test and put back after it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.cluster.kube import CONFIGMAP, DEADLINE, TASKRUN, Kube
from tests.cluster.room import Room, taskrun
from tests.cluster.tekton import FEATURE_FLAGS, SYSTEM

_IN_STATUS = {
    "results-from": "resultExtractionMethod",
    "max-result-size": "maxResultSize",
    "set-security-context": "setSecurityContext",
    "set-security-context-read-only-root-filesystem": "setSecurityContextReadOnlyRootFilesystem",
}
"""The flags that tests change, and their names in a TaskRun's `status.provenance.featureFlags`."""


@contextmanager
def feature_flags(kube: Kube, room: Room, **flags: str | int) -> Iterator[None]:
    """Tekton's controller works with these flags meanwhile (an underscore stands for a hyphen), then as before.

    The controller does not say when it has seen a change, but every TaskRun's status names the flags it was started
    with: a TaskRun after the other is asked until they are the new ones.
    """
    wanted = {name.replace("_", "-"): str(value) for name, value in flags.items()}
    unknown = set(wanted) - set(_IN_STATUS)
    if unknown:
        raise ValueError(f"no test changes {unknown}: add it to {__name__}")
    before = kube.get(CONFIGMAP, FEATURE_FLAGS, SYSTEM)["data"]
    _change(kube, room, wanted)
    try:
        yield
    finally:
        _change(kube, room, {name: before.get(name) for name in wanted})


def _change(kube: Kube, room: Room, flags: Mapping[str, str | None]) -> None:
    kube.patch(CONFIGMAP, FEATURE_FLAGS, {"data": flags}, SYSTEM)
    expected = {_IN_STATUS[name]: value for name, value in flags.items() if value is not None}
    unset = {_IN_STATUS[name] for name, value in flags.items() if value is None}
    end = time.monotonic() + DEADLINE
    before: dict[str, str] | None = None
    while time.monotonic() < end:
        probe = taskrun("", [], probe="true")
        probe["metadata"] = {"generateName": "flags-"}
        name = room.start(probe)["metadata"]["name"]
        found = room.wait(TASKRUN, name, lambda run: "provenance" in run.get("status", {}), what="provenance")
        flags_then = found["status"]["provenance"]["featureFlags"]
        seen = {key: str(flags_then.get(key, False)).lower() for key in _IN_STATUS.values()}  # false is left out
        kube.delete(TASKRUN, name, room.name)
        if all(seen.get(key) == value for key, value in expected.items()) and all(
            seen.get(key) == _DEFAULTS.get(key) for key in unset
        ):
            return
        before = seen
    raise AssertionError(f"Tekton's controller did not take over {flags} within {DEADLINE:.0f} s; it has {before}")


_DEFAULTS = {"resultExtractionMethod": "termination-message", "maxResultSize": "4096"}
"""What a flag that is not set is."""
