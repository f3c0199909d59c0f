"""The order of a pipeline's tasks: by `runAfter`, and by the results they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from resultsfs.local.model import PipelineTask


def dependencies(tasks: Sequence[PipelineTask]) -> dict[str, tuple[str, ...]]:
    """What each task waits for, by name, in the order of the pipeline.

    Raises ValueError that names a task that is not there, or the cycle.
    """
    known = {task.name for task in tasks}
    waits: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        wanted = {use.task for use in task.result_uses()} | set(task.run_after)
        for name in wanted - known:
            raise ValueError(f'task "{task.name}" depends on "{name}", which is not among the pipeline\'s tasks')
        waits[task.name] = tuple(other.name for other in tasks if other.name in wanted)
    _refuse_cycles(waits)
    return waits


def _refuse_cycles(waits: Mapping[str, Sequence[str]]) -> None:
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        raise ValueError(f"the tasks wait for one another: {' -> '.join(reversed(error.args[1]))}") from None
