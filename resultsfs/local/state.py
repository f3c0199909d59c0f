"""How far a pipeline has come: what each task did, and what follows for others.

Rules from tektoncd/pipeline `pkg/reconciler/pipelinerun/resources/pipelinerunstate.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from resultsfs.local.matrix import aggregated
from resultsfs.local.model import PipelineTask, Task
from resultsfs.local.outcome import RunFailed, Skipped, TaskRunRecord
from resultsfs.local.plan import ResultOutcome
from resultsfs.local.substitution import Replacements
from resultsfs.record import ResultType, ResultValue
from resultsfs.variables import ResultUse

WHEN_SKIP = "When Expressions evaluated to false"
PARENT_SKIP = "Parent Tasks were skipped"
STOPPING_SKIP = "PipelineRun was stopping"
MISSING_SKIP = "Results were missing"
PIPELINE_TIMEOUT_SKIP = "PipelineRun timeout has been reached"
TASKS_TIMEOUT_SKIP = "PipelineRun Tasks timeout has been reached"
FINALLY_TIMEOUT_SKIP = "PipelineRun Finally timeout has been reached"
EMPTY_MATRIX_SKIP = "Matrix Parameters have an empty array"
_TIMEOUT_SKIPS = (PIPELINE_TIMEOUT_SKIP, TASKS_TIMEOUT_SKIP, FINALLY_TIMEOUT_SKIP)
_MESSAGE_LIMIT = 1024


class MissingResult(Exception):
    """A result that a task uses is not there; `task` should have given it."""

    def __init__(self, task: str, message: str) -> None:
        super().__init__(message)
        self.task = task


@dataclass(slots=True)
class Node:
    """One pipeline task: `task` with what is known of its variables replaced, and what became of it."""

    task: PipelineTask
    definition: Task
    is_final: bool = False
    runs: list[str] = field(default_factory=list)
    records: dict[str, TaskRunRecord] = field(default_factory=dict)
    skipped: str | None = None
    invalid: str | None = None

    @property
    def name(self) -> str:
        """The pipeline task's name."""
        return self.task.name

    @property
    def started(self) -> bool:
        """Whether its TaskRuns were made."""
        return bool(self.runs)

    @property
    def finished(self) -> bool:
        """Whether all its TaskRuns have ended."""
        return bool(self.runs) and len(self.records) == len(self.runs)

    @property
    def failed(self) -> bool:
        """Whether all ended, and one did not succeed."""
        return self.finished and any(record.status == "Failed" for record in self.records.values())

    @property
    def succeeded(self) -> bool:
        """Whether all ended and succeeded."""
        return self.finished and not self.failed

    @property
    def done(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.finished or self.skipped is not None or self.invalid is not None

    @property
    def stops(self) -> bool:
        """Whether the pipeline starts no other task because of it."""
        return (self.failed or self.invalid is not None) and not self.task.ignores_failure

    @property
    def status(self) -> str:
        """`tasks.<name>.status`."""
        return "Succeeded" if self.succeeded else "Failed" if self.failed else "None"

    @property
    def reason(self) -> str:
        """`tasks.<name>.reason`."""
        ended = [self.records[name] for name in self.runs if name in self.records]
        bad = [record for record in ended if record.status == "Failed"]
        return (bad or ended)[0].reason if ended else ""

    def result(self, name: str) -> ResultOutcome | None:
        """One result of its TaskRun, also when that failed; None when there is none."""
        for record in self.records.values():
            for result in record.results:
                if result.name == name:
                    return result
        return None

    def value(self, name: str) -> ResultValue | None:
        """What another task gets for a result: of a matrixed task the array of all its TaskRuns' strings."""
        if self.task.matrix is None:
            found = self.result(name)
            return None if found is None else found.value
        values = [
            (record.name, result.value)
            for record in self.records.values()
            for result in record.results
            if result.name == name and result.type is ResultType.STRING
        ]
        return aggregated(values) if values else None


class State:
    """All tasks of a pipeline, in its order."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}

    @property
    def dag(self) -> list[Node]:
        """The tasks that are not in finally."""
        return [node for node in self.nodes.values() if not node.is_final]

    @property
    def final(self) -> list[Node]:
        """The tasks of finally."""
        return [node for node in self.nodes.values() if node.is_final]

    @property
    def stopping(self) -> bool:
        """Whether no other task starts, for one has failed."""
        return any(node.stops for node in self.dag)

    def skipped(self) -> tuple[Skipped, ...]:
        """All skipped tasks, in the pipeline's order."""
        return tuple(Skipped(node.name, node.skipped) for node in self.nodes.values() if node.skipped is not None)

    def records(self) -> tuple[TaskRunRecord, ...]:
        """All TaskRuns, in the pipeline's order."""
        return tuple(node.records[name] for node in self.nodes.values() for name in node.runs if name in node.records)

    def replacements(self, uses: Iterable[ResultUse]) -> Replacements:
        """What the results that a task uses stand for. Raises MissingResult for the first that is not there.

        Raises RunFailed for an index that an array does not have: Tekton gives up the whole run then.
        """
        found: dict[tuple[str, str], ResultValue] = {}
        for use in uses:
            node = self.nodes[use.task]
            value = node.value(use.result) if node.finished else None
            if value is None:
                raise MissingResult(use.task, self._missing(node, use))
            if isinstance(value, list) and use.index is not None and use.index >= len(value):
                raise RunFailed(
                    "PipelineValidationFailed",
                    f"couldn't resolve all references: array Result Index {use.index} for Task {use.task} Result "
                    f"{use.result} is out of bound of size {len(value)}",
                )
            found[use.task, use.result] = value
        return Replacements.of_results((task, result, value) for (task, result), value in found.items())

    @staticmethod
    def _missing(node: Node, use: ResultUse) -> str:
        if not node.started:
            return f'Result reference error: Internal result ref "{use.task}" has zero-length TaskRuns'
        if node.succeeded:
            return f'task "{use.task}" completed successfully but did not emit the result "{use.result}"'
        return (
            f"Invalid task result reference: Could not find result with name {use.result} for pipeline task {use.task}"
        )

    def context(self) -> Replacements:
        """`tasks.<name>.status`, `.reason` and `tasks.status`, for finally."""
        made = Replacements()
        for node in self.dag:
            made.strings[f"tasks.{node.name}.status"] = node.status
            made.strings[f"tasks.{node.name}.reason"] = node.reason
        aggregate = "Succeeded"
        if any(record.status == "Failed" for node in self.dag for record in node.records.values()):
            aggregate = "Failed"
        elif any(node.skipped is not None for node in self.dag):
            aggregate = "Completed"
        made.strings["tasks.status"] = aggregate
        return made

    def lengths(self, combinations: Mapping[str, int]) -> Replacements:
        """`tasks.<name>.matrix.length` and `tasks.<name>.matrix.<result>.length`."""
        made = Replacements()
        for name, count in combinations.items():
            made.strings[f"tasks.{name}.matrix.length"] = str(count)
            for result in self.nodes[name].definition.spec.results:
                value = self.nodes[name].value(result.name)
                made.strings[f"tasks.{name}.matrix.{result.name}.length"] = str(len(value or ()))
        return made

    def condition(self) -> tuple[bool, str, str]:
        """Whether the run succeeded, its reason and its message, when all tasks are done."""
        succeeded = failed = ignored = skipped = timed_out = 0
        invalid: list[str] = []
        for node in self.nodes.values():
            if node.succeeded:
                succeeded += 1
            elif node.failed:
                ignored += node.task.ignores_failure
                failed += not node.task.ignores_failure
            elif node.invalid is not None:
                invalid.append(node.invalid)
            else:
                skipped += 1
                timed_out += node.skipped in _TIMEOUT_SKIPS
        failures = f"Failed: {failed + ignored}" + (f" (Ignored: {ignored})" if ignored else "")
        message = f"Tasks Completed: {succeeded + failed + ignored} ({failures}, Cancelled 0), Skipped: {skipped}"
        if invalid:
            details = "; ".join(invalid)
            details = details if len(details) <= _MESSAGE_LIMIT else details[:_MESSAGE_LIMIT] + "..."
            return False, "PipelineValidationFailed", f"{message}, Failed Validation: {len(invalid)} ({details})"
        if failed or timed_out:
            return False, "Failed", message
        return True, "Completed" if skipped else "Succeeded", message
