"""Running the examples as people do: with the command, on a store and a history of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resultsfs.reference import Reference
from resultsfs.settings import Settings
from resultsfs.store import Key, Store

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = Path(sys.executable).with_name("resultsfs")


@dataclass(frozen=True)
class Outcome:
    """What `resultsfs run --output json` printed, its exit code and what it said on the way."""

    exit_code: int
    tree: dict[str, Any]
    said: str

    @property
    def status(self) -> str:
        """The run's status."""
        return str(self.tree["status"])

    def runs_of(self, pipeline_task: str) -> list[dict[str, Any]]:
        """The TaskRuns of a pipeline task, in their order."""
        return [run for run in self.tree["taskRuns"] if run["pipelineTask"] == pipeline_task]

    def task(self, pipeline_task: str) -> dict[str, Any]:
        """The one TaskRun of a pipeline task."""
        (run,) = self.runs_of(pipeline_task)
        return run

    def result(self, pipeline_task: str, name: str) -> dict[str, Any]:
        """A result of the one TaskRun of a pipeline task."""
        results: list[dict[str, Any]] = self.task(pipeline_task)["results"]
        return next(result for result in results if result["name"] == name)

    def value(self, pipeline_task: str, name: str) -> Any:
        """What status holds of a result."""
        return self.result(pipeline_task, name)["value"]

    def of_run(self, name: str) -> dict[str, Any]:
        """A result of the run itself."""
        results: list[dict[str, Any]] = self.tree["results"]
        return next(result for result in results if result["name"] == name)

    def spilled(self) -> set[tuple[str, str]]:
        """Pipeline task and name of each result that is not wholly in status."""
        return {
            (run["pipelineTask"], result["name"])
            for run in self.tree["taskRuns"]
            for result in run["results"]
            if result["spilled"]
        }


class Runner:
    """Runs an example; `content` fetches what its references stand for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = f"file://{directory}/store"

    def run(self, example: str, *options: str, timeout: float = 500) -> Outcome:
        """Run a file below `examples/` through the command, to its end."""
        process = subprocess.run(
            [COMMAND, "run", EXAMPLES / example, "--store", self._store, "--output", "json", *options],
            env={**os.environ, "XDG_STATE_HOME": str(self._directory / "state"), "TMPDIR": str(self._directory)},
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        said = process.stderr.decode()
        assert process.returncode in (0, 1), said
        outcome = Outcome(process.returncode, json.loads(process.stdout), said)
        assert (outcome.exit_code == 0) == (outcome.status == "Succeeded")
        return outcome

    def content(self, reference: str) -> bytes:
        """The content that a reference of one of the runs stands for, verified by the store."""
        store = Store.open(Settings(store=self._store))
        try:
            key = Key.of("default", Reference.parse(reference))
            return store.fetch(key, store.size(key))
        finally:
            store.close()

    def matches(self, result: dict[str, Any]) -> bool:
        """Whether a spilled result's content has the size and SHA-256 that were reported."""
        content = self.content(result["value"])
        return (len(content), hashlib.sha256(content).hexdigest()) == (result["size"], result["sha256"])
