"""Where a pipeline uses its tasks' results, and which of them must therefore stay inline.

Nothing can put content back where Tekton itself reads a result while it plans: `when`, CEL, display names,
sub-paths, references to Tasks. Params, and task specs embedded in the pipeline, travel in the TaskRun, whose
admission puts the content back. A matrix fans out in Tekton, but its elements become params.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from resultsfs.record import Keep
from resultsfs.variables import result_uses

_RESOLVED_LATER = frozenset({"params", "taskSpec", "pipelineSpec"})
"""Fields of a pipeline task that reach a run's own admission (a nested pipelineSpec has results of its own)."""


def kept_results(
    pipeline_spec: Mapping[str, Any], run_spec: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Keep]]:
    """How far each result must stay inline, by pipeline task and result; results that may be spilled are absent.

    `pipeline_spec` is a PipelineRun's `status.pipelineSpec` (params applied) as a JSON tree, `run_spec` its
    `spec`, whose workspace bindings may name results too. Names are as the pipeline uses them: whether the
    task declares such a result is for the caller to compare.
    """
    kept: dict[str, dict[str, Keep]] = {}
    for section in ("tasks", "finally"):
        for task in pipeline_spec.get(section) or ():
            for keep, tree in _uses(task):
                _add(kept, keep, tree)
    if run_spec is not None:
        _add(kept, Keep.INLINE, run_spec.get("workspaces"))
    return kept


def _uses(task: Mapping[str, Any]) -> Iterator[tuple[Keep, Any]]:
    for field, tree in task.items():
        if field == "matrix":
            for part in ("params", "include"):
                for entry in tree.get(part) or ():
                    # The name of an included combination is a display name.
                    yield Keep.SKELETON, {key: value for key, value in entry.items() if key != "name"}
                    yield Keep.INLINE, entry.get("name")
        elif field not in _RESOLVED_LATER:
            yield Keep.INLINE, tree
    # An enum is checked by the pipeline's reconciler, before there is a TaskRun.
    declared = (task.get("taskSpec") or {}).get("params") or ()
    enums = {param["name"] for param in declared if param.get("enum")}
    for param in task.get("params") or ():
        if param["name"] in enums:
            yield Keep.INLINE, param.get("value")


def _add(kept: dict[str, dict[str, Keep]], keep: Keep, tree: Any) -> None:
    for use in result_uses(tree):
        of_task = kept.setdefault(use.task, {})
        if keep is Keep.INLINE or use.result not in of_task:
            of_task[use.result] = keep
