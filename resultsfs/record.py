"""A volume's record: what the host says of one TaskRun's volume. Written once, read by whoever serves it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any
from uuid import UUID

from resultsfs.errors import InvalidRecord
from resultsfs.reference import LENGTH as REFERENCE_LENGTH

RESULT_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
"""What Tekton allows as a result's name."""
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_VOLUME_ID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,127}")


ResultValue = str | list[str] | dict[str, str]
"""A result's or param's value as Tekton's API has it: string, array or object."""


def is_volume_id(text: str) -> bool:
    """Whether it can be a volume's id: a name that is a file's, too, and never hidden."""
    return _VOLUME_ID.fullmatch(text) is not None


class Mode(StrEnum):
    """How Tekton gathers results (its feature flag `results-from`)."""

    TERMINATION_MESSAGE = "termination-message"
    SIDECAR_LOGS = "sidecar-logs"


class Keep(StrEnum):
    """How far a result must stay inline, because of where the pipeline uses it."""

    INLINE = "inline"
    """Used where nothing can resolve a reference (`when`, CEL, displayName, subPath, taskRef params, enums)."""
    SKELETON = "skeleton"
    """Used in a matrix or by an index: a skeleton may stand, a whole-array reference may not."""


class ResultType(StrEnum):
    """A result's declared type."""

    STRING = "string"
    ARRAY = "array"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """One TaskRun pod's `/tekton/results`.

    `results` are the declared result names in declared order, `containers` counts the pod's containers and
    init containers, `max_result_size` is Tekton's (bytes, sidecar-logs only), `reserve` the bytes of each
    termination message that step results, artifacts and SPIRE will take. `types` may be empty: then the
    host is asked when a spilled content begins like JSON. `threshold` (bytes) narrows `result-size-threshold` for
    this volume. Raises InvalidRecord.
    """

    volume_id: str
    namespace: str
    taskrun: str
    pod_uid: UUID
    run_uid: UUID
    results: tuple[str, ...]
    run_kind: str = "TaskRun"
    run_name: str = ""
    pod_name: str = ""
    containers: int = 1
    mode: Mode = Mode.TERMINATION_MESSAGE
    max_result_size: int = 4096
    threshold: int | None = None
    reserve: int = 0
    kept: Mapping[str, Keep] = field(default_factory=dict)
    types: Mapping[str, ResultType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(is_volume_id(self.volume_id), "volume_id", self.volume_id, "letters, digits, - _ .")
        for key in ("namespace", "taskrun"):
            _require(bool(_DNS_NAME.fullmatch(getattr(self, key))), key, getattr(self, key), "a Kubernetes name")
        for name in self.results:
            _require(bool(RESULT_NAME.fullmatch(name)), "results", name, "a Tekton result name")
        _require(len(set(self.results)) == len(self.results), "results", self.results, "each name once")
        _require(self.containers >= 1, "containers", self.containers, "at least 1")
        _require(0 < self.max_result_size <= 1_572_864, "max_result_size", self.max_result_size, "1 to 1572864")
        least = REFERENCE_LENGTH
        bad = self.threshold is not None and self.threshold < least
        _require(not bad, "threshold", self.threshold, f"at least {least}")
        _require(self.reserve >= 0, "reserve", self.reserve, "at least 0")
        _require(self.run_kind in ("TaskRun", "PipelineRun"), "run_kind", self.run_kind, "TaskRun or PipelineRun")
        for key in ("kept", "types"):
            strangers = set(getattr(self, key)) - set(self.results)
            _require(not strangers, key, sorted(strangers), "declared results")

    def to_json(self) -> str:
        """The record as one JSON object that `from_json` reads back."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return json.dumps(values, default=str, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> VolumeRecord:
        """Read a record by a strict schema: unknown, missing and bad fields raise InvalidRecord naming them."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InvalidRecord(f"volume record is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise InvalidRecord(f"volume record is a {type(values).__name__}: expected an object")
        known = {spec.name for spec in fields(cls)}
        for key in values:
            if key not in known:
                raise InvalidRecord(f"volume record: unknown field {key!r}; known are {', '.join(sorted(known))}")
        converted: dict[str, Any] = {}
        for key, value in values.items():
            try:
                converted[key] = _CONVERT[key](value)
            except (TypeError, ValueError, AttributeError):
                raise InvalidRecord(f"volume record: {key} is {value!r}, which is no valid value") from None
        try:
            return cls(**converted)
        except TypeError as error:
            raise InvalidRecord(f"volume record: {str(error).partition('__init__() ')[2]}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value


_CONVERT: dict[str, Any] = {
    "volume_id": _text,
    "namespace": _text,
    "taskrun": _text,
    "pod_uid": UUID,
    "run_uid": UUID,
    "results": lambda value: tuple(_text(name) for name in value),
    "run_kind": _text,
    "run_name": _text,
    "pod_name": _text,
    "containers": _integer,
    "mode": Mode,
    "max_result_size": _integer,
    "threshold": lambda value: None if value is None else _integer(value),
    "reserve": _integer,
    "kept": lambda value: {_text(name): Keep(keep) for name, keep in value.items()},
    "types": lambda value: {_text(name): ResultType(kind) for name, kind in value.items()},
}


def _require(good: bool, key: str, value: object, allowed: str) -> None:
    if not good:
        raise InvalidRecord(f"volume record: {key} is {value!r}: expected {allowed}")
