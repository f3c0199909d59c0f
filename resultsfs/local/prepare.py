"""Before a PipelineRun's first TaskRun: checks against the run, and all variables that are known by then.

Reasons and messages follow tektoncd/pipeline `pkg/reconciler/pipelinerun/pipelinerun.go`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from resultsfs.local import conditions, matrix, workspaces
from resultsfs.local.model import Params, PipelineRun, PipelineTask, Task, TaskSpec, WorkspaceBinding
from resultsfs.local.outcome import RunFailed
from resultsfs.local.params import (
    effective,
    enum_problem,
    missing,
    missing_keys,
    out_of_range,
    task_problem,
    wrong_types,
)
from resultsfs.local.state import Node
from resultsfs.local.substitution import Replacements
from resultsfs.variables import result_uses


def replace_task(task: PipelineTask, with_: Replacements, *, in_spec: bool = True) -> PipelineTask:
    """A pipeline task with variables replaced wherever Tekton replaces them.

    Params that the task gives itself hide the pipeline's in an embedded spec (`in_spec`).
    """
    spec = task.spec
    if spec is not None and in_spec:
        given = [name for name, _ in task.params]
        if task.matrix is not None:
            given += [name for name, _ in task.matrix.params]
            given += [name for include in task.matrix.include for name, _ in include.params]
        inner = with_.without_params(given)
        tree = {
            key: inner.tree(value) if key in ("steps", "stepTemplate") else value for key, value in spec.tree.items()
        }
        if "workspaces" in tree:
            tree["workspaces"] = [
                {**item, "mountPath": inner.text(item["mountPath"])} if item.get("mountPath") else item
                for item in tree["workspaces"]
            ]
        spec = TaskSpec.of(tree)
    return replace(
        task,
        task_ref=None if task.task_ref is None else with_.text(task.task_ref),
        spec=spec,
        params=with_.params(task.params),
        matrix=None if task.matrix is None else matrix.replaced(task.matrix, with_),
        when=conditions.replaced(task.when, with_),
        on_error=with_.text(task.on_error),
        workspaces=tuple(replace(item, sub_path=with_.text(item.sub_path)) for item in task.workspaces),
        display_name=with_.text(task.display_name),
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A PipelineRun that may start: its tasks as nodes, and its workspaces with params replaced."""

    nodes: list[Node]
    bindings: tuple[WorkspaceBinding, ...]


def prepare(run: PipelineRun, uid: UUID) -> Prepared:
    """Check the run and replace what is known. Raises RunFailed with Tekton's reason and message."""
    pipeline = run.pipeline
    this, that = f"{run.namespace}/{run.name}", f"{run.namespace}/{pipeline.name}"
    params = _checked_params(run, this, that)
    of_params = Replacements.of_params(params)
    if wrong := out_of_range([pipeline.tree.get("tasks"), pipeline.tree.get("finally")], of_params):
        raise RunFailed(
            "ParamArrayIndexingInvalid",
            f"PipelineRun {this} failed validation: failed to validate Pipeline {that}'s parameter which has an "
            f"invalid index while referring to an array: non-existent param references:[{' '.join(wrong)}]",
        )
    bound = {item.name for item in run.workspaces}
    for item in pipeline.workspaces:
        if not item.optional and item.name not in bound:
            raise RunFailed(
                "InvalidWorkspaceBindings",
                f"PipelineRun {this} doesn't bind Pipeline {that}'s Workspaces correctly: pipeline requires workspace "
                f'with name "{item.name}" be provided by pipelinerun',
            )
    names = {task.name for task in pipeline.all_tasks}
    for name in run.task_run_specs:
        if name not in names:
            raise RunFailed(
                "InvalidTaskRunSpecs",
                f"PipelineRun {this} doesn't define taskRunSpecs correctly: pipelineRun's taskrunSpecs defined wrong "
                f'taskName: "{name}", does not exist in Pipeline',
            )
    stages = (of_params, _contexts(run, uid), _bound(run))
    nodes = []
    for task in pipeline.all_tasks:
        for stage in stages:
            task = replace_task(task, stage)
        retries = Replacements({"context.pipelineTask.retries": str(task.retries)})
        task = replace_task(task, retries, in_spec=False)
        if task.on_error not in ("stopAndFail", "continue"):
            raise RunFailed(
                "PipelineValidationFailed",
                f'Pipeline {that} can\'t be Run; it has an invalid spec: task "{task.name}": onError is '
                f"{task.on_error!r}: expected stopAndFail or continue",
            )
        nodes.append(
            Node(task, _definition(run, task), is_final=task.name in {item.name for item in pipeline.finally_})
        )
    _check_tasks(run, nodes)
    return Prepared(nodes, workspaces.replaced(run.workspaces, of_params))


def _checked_params(run: PipelineRun, this: str, that: str) -> Params:
    specs = run.pipeline.params
    if absent := missing(specs, [name for name, _ in run.params]):
        raise RunFailed(
            "ParameterMissing",
            f"PipelineRun {this} is missing some parameters required by Pipeline {that}: pipelineRun missing "
            f"parameters: [{' '.join(absent)}]",
        )
    if wrong := wrong_types(specs, run.params):
        raise RunFailed(
            "ParameterTypeMismatch",
            f"PipelineRun {this} parameters have mismatching types with Pipeline {that}'s parameters: parameters have "
            f"inconsistent types : [{' '.join(wrong)}]",
        )
    if keys := missing_keys(specs, run.params):
        listed = " ".join(f"{name}:[{' '.join(lacking)}]" for name, lacking in keys.items())
        raise RunFailed(
            "ObjectParameterMissKeys",
            f"PipelineRun {this} parameters is missing object keys required by Pipeline {that}'s parameters: "
            f"pipelineRun missing object keys for parameters: map[{listed}]",
        )
    if problem := enum_problem(specs, run.params):
        raise RunFailed("InvalidParamValue", f"PipelineRun {this} parameters have invalid value: {problem}")
    try:
        return effective(specs, run.params)
    except ValueError as error:
        raise RunFailed("PipelineValidationFailed", f"Failed to apply parameters to Pipeline {that}: {error}") from None


def _contexts(run: PipelineRun, uid: UUID) -> Replacements:
    return Replacements(
        {
            "context.pipelineRun.name": run.name,
            "context.pipeline.name": run.pipeline.name,
            "context.pipelineRun.namespace": run.namespace,
            "context.pipelineRun.uid": str(uid),
        }
    )


def _bound(run: PipelineRun) -> Replacements:
    made = Replacements({f"workspaces.{item.name}.bound": "false" for item in run.pipeline.workspaces})
    made.strings.update({f"workspaces.{item.name}.bound": "true" for item in run.workspaces})
    return made


def _definition(run: PipelineRun, task: PipelineTask) -> Task:
    if task.spec is not None:
        return Task("", task.spec)
    assert task.task_ref is not None
    found = run.tasks.get(task.task_ref)
    if found is None:
        raise RunFailed(
            "CouldntGetTask",
            f"Pipeline {run.namespace}/{run.pipeline.name} can't be Run; it contains Tasks that don't exist: Couldn't "
            f'retrieve Task "{task.task_ref}": the file has {", ".join(run.tasks) or "none"}',
        )
    return found


def _check_tasks(run: PipelineRun, nodes: list[Node]) -> None:
    by_name = {node.name: node for node in nodes}
    optional = {item.name for item in run.pipeline.workspaces if item.optional}
    for node in nodes:
        fanned = [] if node.task.matrix is None else [name for name, _ in node.task.matrix.params]
        if node.task.matrix is not None:
            fanned += [name for include in node.task.matrix.include for name, _ in include.params]
        specs = node.definition.spec.params
        if problem := task_problem(specs, node.task.params, fanned, unresolved=True):
            raise RunFailed(
                "PipelineValidationFailed",
                f"Validation failed for pipelinerun {run.name} with error invalid input params for task "
                f"{node.definition.name}: {problem}",
            )
        for use in node.task.result_uses():
            if problem := _unknown_result(by_name, use.task, use.result):
                raise RunFailed(
                    "InvalidTaskResultReference",
                    f'invalid result reference in pipeline task "{node.name}": {problem}',
                )
        for wanted in node.task.workspaces:
            needed = {item.name for item in node.definition.spec.workspaces if not item.optional}
            if wanted.workspace in optional and wanted.name in needed:
                raise RunFailed(
                    "RequiredWorkspaceMarkedOptional",
                    f'Optional workspace not supported by task: pipeline workspace "{wanted.workspace}" is marked '
                    f'optional but pipeline task "{node.name}" requires it be provided',
                )
    for result in run.pipeline.results:
        for use in result_uses(result.value):
            if problem := _unknown_result(by_name, use.task, use.result):
                raise RunFailed(
                    "InvalidPipelineResultReference",
                    f'Failed to resolve pipeline result reference for "{run.name}" with error invalid pipeline result '
                    f'"{result.name}": {problem}',
                )


def _unknown_result(nodes: dict[str, Node], task: str, result: str) -> str | None:
    if task not in nodes:
        return f'referenced pipeline task "{task}" does not exist'
    if result not in {item.name for item in nodes[task].definition.spec.results}:
        return f'"{result}" is not a named result returned by pipeline task "{task}"'
    return None
