"""Knobs: what whoever makes a pod may say of its volume, as a flat map of texts (CSI's volumeAttributes).

Harmless by design: names, counts and sizes of the pod's own results. Where content lives, whose it is and what a
volume may use up comes from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from resultsfs import units
from resultsfs.errors import InvalidKnob
from resultsfs.record import RESULT_NAME, Keep, Mode
from resultsfs.reference import LENGTH as REFERENCE_LENGTH

MOST_CONTAINERS = 1000
"""More than any node's kubelet starts in one pod."""
MOST_RESULT_SIZE = 1_572_864
"""Bytes: what Tekton allows its `max-result-size` to be."""

_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Knobs:
    """All knobs; `to_mapping` and `from_mapping` are each other's inverse.

    `results` are the declared names in declared order, `containers` counts containers and init containers,
    `threshold` (bytes) narrows `result-size-threshold`, `max_result_size` (bytes) is Tekton's for sidecar-logs,
    `kept` says which results stay inline, `reserve` is what others add to each termination message (bytes).
    """

    results: tuple[str, ...]
    taskrun: str
    run_uid: UUID
    run_kind: str = "TaskRun"
    run_name: str = ""
    containers: int = 1
    mode: Mode = Mode.TERMINATION_MESSAGE
    max_result_size: int = 4096
    threshold: int | None = None
    reserve: int = 0
    kept: Mapping[str, Keep] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, str]:
        """The knobs as texts; what has its default is left out."""
        found = {
            "results": ",".join(self.results),
            "taskrun": self.taskrun,
            "run-uid": str(self.run_uid),
            "run-kind": self.run_kind,
            "run-name": self.run_name,
            "containers": str(self.containers),
            "mode": str(self.mode),
            "max-result-size": str(self.max_result_size),
            "result-size-threshold": "" if self.threshold is None else str(self.threshold),
            "reserve": str(self.reserve),
            "keep-inline": _kept(self.kept, Keep.INLINE),
            "keep-skeleton": _kept(self.kept, Keep.SKELETON),
        }
        return {key: text for key, text in found.items() if key in _REQUIRED or text != _DEFAULTS[key]}

    @classmethod
    def from_mapping(cls, texts: Mapping[str, str]) -> Knobs:
        """Read knobs by a strict schema. Raises InvalidKnob that names the key, the value and what is allowed."""
        for key in texts:
            if key not in _READ:
                raise InvalidKnob(f"unknown attribute {key!r}; known are {', '.join(sorted(_READ))}")
        for key in _REQUIRED:
            if key not in texts:
                raise InvalidKnob(f"attribute {key!r} is missing: expected {_READ[key][1]}")
        values = {key: _read(key, text) for key, text in texts.items()}
        kept = dict.fromkeys(values.pop("keep-skeleton", ()), Keep.SKELETON)
        kept |= dict.fromkeys(values.pop("keep-inline", ()), Keep.INLINE)
        for name in kept:
            if name not in values["results"]:
                raise InvalidKnob(f"attributes keep-inline, keep-skeleton name {name!r}: expected declared results")
        renamed = {"result-size-threshold": "threshold"}
        fields = {renamed.get(key, key.replace("-", "_")): value for key, value in values.items()}
        return cls(**fields, kept=kept)


def _read(key: str, text: str) -> Any:
    read, allowed = _READ[key]
    try:
        return read(text)
    except ValueError:
        raise InvalidKnob(f"attribute {key} is {text!r}: expected {allowed}") from None


def _kept(kept: Mapping[str, Keep], wanted: Keep) -> str:
    return ",".join(name for name, keep in kept.items() if keep is wanted)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(",")) if text else ()
    if len(set(names)) != len(names) or not all(RESULT_NAME.fullmatch(name) for name in names):
        raise ValueError(text)
    return names


def _name(text: str) -> str:
    if not _DNS_NAME.fullmatch(text):
        raise ValueError(text)
    return text


def _uid(text: str) -> UUID:
    uid = UUID(text)
    if str(uid) != text:
        raise ValueError(text)
    return uid


def _number(least: int, most: int, parse: Callable[[str], int] = int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or text != text.strip() or text[:1] not in "0123456789" or "_" in text:
            raise ValueError(text)
        value = parse(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return read


def _one_of(choices: Iterable[str]) -> Callable[[str], str]:
    allowed = frozenset(choices)

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    return read


_RUN_KINDS = ("TaskRun", "PipelineRun")
_NAMES = "names of results, each once, separated by commas"
_READ: dict[str, tuple[Callable[[str], Any], str]] = {
    "results": (_names, _NAMES),
    "taskrun": (_name, "the name of the pod's TaskRun"),
    "run-uid": (_uid, "the UID of the topmost PipelineRun, or of a TaskRun without one"),
    "run-kind": (_one_of(_RUN_KINDS), " or ".join(_RUN_KINDS)),
    "run-name": (_name, "the name of the run that run-uid names"),
    "containers": (_number(1, MOST_CONTAINERS), f"a number of containers from 1 to {MOST_CONTAINERS}"),
    "mode": (Mode, " or ".join(Mode)),
    "max-result-size": (_number(1, MOST_RESULT_SIZE, units.parse_size), f"a size from 1 to {MOST_RESULT_SIZE} bytes"),
    "result-size-threshold": (
        _number(REFERENCE_LENGTH, MOST_RESULT_SIZE, units.parse_size),
        f"a size from {REFERENCE_LENGTH} to {MOST_RESULT_SIZE} bytes",
    ),
    "reserve": (_number(0, 4096, units.parse_size), "a size from 0 to 4096 bytes"),
    "keep-inline": (_names, _NAMES),
    "keep-skeleton": (_names, _NAMES),
}
_REQUIRED = ("results", "taskrun", "run-uid")
_DEFAULTS = {
    "run-kind": "TaskRun",
    "run-name": "",
    "containers": "1",
    "mode": str(Mode.TERMINATION_MESSAGE),
    "max-result-size": "4096",
    "result-size-threshold": "",
    "reserve": "0",
    "keep-inline": "",
    "keep-skeleton": "",
}
"""Texts that `to_mapping` leaves out; `from_mapping` reads none of the empty ones."""
