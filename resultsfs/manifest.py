"""What one TaskRun's pod published: name, size, SHA-256 and type of each result, inlined or spilled."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from resultsfs.record import ResultType, VolumeRecord


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One published result: `size` (bytes) and `sha256` (hex) of the content as the step wrote it.

    `spilled`: at least a part of it is in the store. `when` in seconds since the epoch.
    """

    name: str
    size: int
    sha256: str
    type: ResultType
    spilled: bool
    when: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ManifestEntry:
        """Read what `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(**{**values, "type": ResultType(values["type"])})


def render(record: VolumeRecord, entries: Iterable[ManifestEntry]) -> bytes:
    """The manifest as it lies in the store, at `<namespace>/<run uid>/runs/<taskrun>/<pod uid>.json`."""
    return json.dumps(
        {
            "taskRun": record.taskrun,
            "pod": str(record.pod_uid),
            "run": {"kind": record.run_kind, "name": record.run_name, "uid": str(record.run_uid)},
            "results": [entry.to_dict() for entry in entries],
        },
        indent=1,
    ).encode()


def parse(data: bytes) -> list[ManifestEntry]:
    """The entries of a manifest. Raises ValueError when it is none."""
    try:
        return [ManifestEntry.from_dict(values) for values in json.loads(data)["results"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a manifest: {error!r}") from None
