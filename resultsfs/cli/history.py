"""Records of the runs on this machine, so that their results can be listed and read afterwards."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from resultsfs.errors import InvalidKey, InvalidRecord
from resultsfs.local.outcome import RunOutcome, Skipped, TaskRunRecord
from resultsfs.local.plan import ResultOutcome
from resultsfs.local.report import as_object
from resultsfs.record import ResultType

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run, when it began and ended (seconds since the epoch), and the settings that tell where content lies."""

    outcome: RunOutcome
    started: float
    finished: float
    settings: Mapping[str, str]

    def to_json(self) -> str:
        """One JSON object that `from_json` reads back."""
        return json.dumps(
            {
                "uid": str(self.outcome.uid),
                "namespace": self.outcome.namespace,
                "started": self.started,
                "finished": self.finished,
                "settings": dict(self.settings),
                "run": as_object(self.outcome),
                "skipped": {skipped.name: skipped.reason for skipped in self.outcome.skipped},
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> PastRun:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        values = json.loads(text)
        run = values["run"]
        outcome = RunOutcome(
            kind=run["kind"],
            name=run["name"],
            namespace=values["namespace"],
            uid=UUID(values["uid"]),
            status=run["status"],
            reason=run["reason"],
            message=run["message"],
            results=_results(run["results"]),
            task_runs=tuple(
                TaskRunRecord(
                    task_run["name"],
                    task_run["pipelineTask"],
                    task_run["status"],
                    task_run["reason"],
                    task_run["message"],
                    _results(task_run["results"]),
                )
                for task_run in run["taskRuns"]
            ),
            skipped=tuple(Skipped(name, reason) for name, reason in values["skipped"].items()),
        )
        return cls(outcome, values["started"], values["finished"], values["settings"])

    def is_called(self, name: str) -> bool:
        """Whether it is what `NAME`, `UID` or `kind/NAME` stands for."""
        kind = self.outcome.kind.lower()
        return name in (self.outcome.name, str(self.outcome.uid), f"{kind}/{self.outcome.name}")


def _results(trees: Iterable[Mapping[str, Any]]) -> tuple[ResultOutcome, ...]:
    return tuple(ResultOutcome(**{**tree, "type": ResultType(tree["type"])}) for tree in trees)


class History:
    """A directory with one file a run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, run: PastRun) -> None:
        """Keep a run. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(run)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.write_text(run.to_json(), encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, run: PastRun) -> None:
        """Forget a run. Raises OSError."""
        self._path(run).unlink(missing_ok=True)

    def _path(self, run: PastRun) -> Path:
        return self._directory / f"{run.outcome.uid}.json"

    def runs(self) -> list[PastRun]:
        """All runs, the oldest first. What cannot be read is left out, and the log says so."""
        found = []
        for path in self._directory.glob("*.json"):
            try:
                found.append(_read(path))
            except (OSError, InvalidRecord) as error:
                log.warning("a record of a run is left out: %s", error)
        return sorted(found, key=lambda run: run.started)

    def find(self, name: str) -> PastRun:
        """The latest run of that name, UID or `kind/NAME`. Raises InvalidKey that names those there are."""
        return self.called(name)[-1]

    def called(self, name: str) -> list[PastRun]:
        """All runs of that name, UID or `kind/NAME`, at least one, the oldest first. Raises InvalidKey as `find`."""
        runs = self.runs()
        if found := [run for run in runs if run.is_called(name)]:
            return found
        known = ", ".join(dict.fromkeys(run.outcome.name for run in reversed(runs))) or "none"
        raise InvalidKey(f"no run {name!r} on this machine; there are: {known}")


def _read(path: Path) -> PastRun:
    try:
        return PastRun.from_json(path.read_text(encoding="utf-8"))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRecord(f"{path}: no record of a run: {error!r}") from None
