"""Where a pipeline uses its tasks' results, and which of them must therefore stay inline.

Nothing can put content back where Tekton itself reads a result while it plans: `when`, CEL, display names,
sub-paths, references to Tasks, enums of params. Params, and task specs embedded in the pipeline, travel in the
TaskRun, whose admission puts the content back. A matrix fans out in Tekton, and its elements become params, unless
Tekton compares them: with the values of its `include`. An index picks one element wherever it stands, which a
whole-array reference does not have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from resultsfs.record import Keep
from resultsfs.variables import result_uses

Tree = Mapping[str, Any]

_RESOLVED_LATER = frozenset({"params", "taskSpec"})
"""Fields of a pipeline task that reach a run's own admission."""
_OTHERS = frozenset({"matrix", "pipelineSpec"})
"""Fields that are looked at by themselves, or not at all: a nested pipelineSpec has results of its own."""


def embedded_params(task: Tree) -> Iterable[Tree]:
    """The params that a pipeline task's embedded task declares."""
    return (task.get("taskSpec") or {}).get("params") or ()


def kept_results(
    pipeline_spec: Tree,
    run_spec: Tree | None = None,
    declared: Callable[[Tree], Iterable[Tree]] = embedded_params,
) -> dict[str, dict[str, Keep]]:
    """How far each result must stay inline, by pipeline task and result; results that may be spilled are absent.

    `pipeline_spec` is a PipelineRun's `status.pipelineSpec` (params applied) as a JSON tree, `run_spec` its
    `spec`, whose workspace bindings may name results too. `declared` gives the params that a pipeline task's Task
    declares, none where they cannot be known; it is asked for tasks alone that use results in params or a matrix.
    Names are as the pipeline uses them: whether the task declares such a result is for the caller to compare.
    """
    kept: dict[str, dict[str, Keep]] = {}
    for section in ("tasks", "finally"):
        for task in pipeline_spec.get(section) or ():
            for keep, tree in _uses(task, declared):
                _add(kept, keep, tree)
    _add(kept, None, pipeline_spec.get("results"))
    if run_spec is not None:
        _add(kept, Keep.INLINE, run_spec.get("workspaces"))
    return kept


def _uses(task: Tree, declared: Callable[[Tree], Iterable[Tree]]) -> Iterator[tuple[Keep | None, Any]]:
    """Trees with uses of results, and how far these must stay inline; None: only as far as an index asks for."""
    for field, tree in task.items():
        if field not in _OTHERS:
            yield None if field in _RESOLVED_LATER else Keep.INLINE, tree
    matrix = task.get("matrix") or {}
    includes = matrix.get("include") or ()
    given = [*(task.get("params") or ()), *(matrix.get("params") or ())]
    given += [param for include in includes for param in include.get("params") or ()]
    # The pipeline's reconciler checks an enum before there is a TaskRun.
    enums = {param["name"] for param in declared(task) if param.get("enum")} if any(result_uses(given)) else set()
    for param in given:
        if param["name"] in enums:
            yield Keep.INLINE, param.get("value")
    if not matrix:
        return
    compared = _compared(matrix)
    for part in (matrix, *includes):
        # The name of an included combination is a display name.
        yield Keep.INLINE, part.get("name")
        for param in part.get("params") or ():
            yield Keep.INLINE if param["name"] in compared else Keep.SKELETON, param.get("value")


def _compared(matrix: Tree) -> set[str]:
    """The params whose values Tekton compares: what an `include` gives that something else in the matrix gives too.

    From tektoncd/pipeline `pkg/apis/pipeline/v1/matrix_types.go`: without `params` an `include` is a combination as
    it stands; else it completes the combinations that it agrees with, those included that others have completed.
    """
    if not matrix.get("params"):
        return set()
    of_includes = [param["name"] for include in matrix.get("include") or () for param in include.get("params") or ()]
    times = Counter([*(param["name"] for param in matrix["params"]), *of_includes])
    return {name for name in of_includes if times[name] > 1}


def _add(kept: dict[str, dict[str, Keep]], keep: Keep | None, tree: Any) -> None:
    for use in result_uses(tree):
        needed = keep or (None if use.index is None else Keep.SKELETON)
        if needed is None:
            continue
        of_task = kept.setdefault(use.task, {})
        if of_task.get(use.result) is not Keep.INLINE:
            of_task[use.result] = needed
