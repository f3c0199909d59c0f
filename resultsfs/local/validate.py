"""What Tekton's webhook would refuse in a Task or Pipeline, beyond the shape of its fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resultsfs.local import duration
from resultsfs.local.checks import Where
from resultsfs.local.graph import dependencies
from resultsfs.local.model import ParamSpec, Pipeline, PipelineTask, TaskSpec
from resultsfs.record import ResultType
from resultsfs.typed import type_of
from resultsfs.variables import is_param, names, param_of, result_use, result_uses, strings

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_RESULT_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_WORKSPACE = re.compile(r"workspaces\.([^.]+)\.(path|bound|claim|volume)")
_STATE = re.compile(r"tasks(\.status|\.[^.]+\.(status|reason))")
_LENGTH = re.compile(r"tasks\.([^.]+)\.matrix(\.[^.]+)?\.length")
_TASK_CONTEXT = frozenset(
    {
        "context.taskRun.name",
        "context.taskRun.namespace",
        "context.taskRun.uid",
        "context.task.name",
        "context.task.retry-count",
    }
)
_PIPELINE_CONTEXT = frozenset(
    {
        "context.pipelineRun.name",
        "context.pipelineRun.namespace",
        "context.pipelineRun.uid",
        "context.pipeline.name",
        "context.pipelineTask.retries",
    }
)
_CONTEXTS = ("context.taskRun.", "context.task.", "context.pipelineRun.", "context.pipeline.", "context.pipelineTask.")
_NOT_LOCAL = ("steps.", "step.", "artifacts.", "outputs.", "inputs.resources.")


def check_task(spec: TaskSpec, where: Where, *, propagated: Iterable[str] | None, embedded: bool = False) -> None:
    """Refuse a task that could not run. `propagated` are params that a run hands to an embedded task.

    None means that nothing is propagated. `embedded`: inside a pipeline, whose own variables may stand here.
    """
    _check_params(spec.params, where)
    for index, result in enumerate(spec.results):
        if _RESULT_NAME.fullmatch(result.name) is None:
            raise where.field("results").item(index).field("name").error(f"is {result.name!r}: no valid result name")
    for index, step in enumerate(spec.tree["steps"]):
        _check_step(step, spec.tree.get("stepTemplate") or {}, where.field("steps").item(index))
    step_names = [step["name"] for step in spec.tree["steps"] if step.get("name")]
    for name in step_names:
        if step_names.count(name) > 1:
            raise where.field("steps").error(f"has the name {name!r} more than once")
    params = {param.name for param in spec.params} | set(propagated or ())
    workspaces = {item.name for item in spec.workspaces}
    paths = spec.paths()
    for key in ("steps", "stepTemplate", "workspaces"):
        for path, text in strings(spec.tree.get(key), key):
            for name in names(text):
                problem = None if name in paths else _task_problem(name, params, workspaces, embedded)
                if problem and not (propagated is not None and name.startswith("workspaces.")):
                    raise where.field(path).error(f"uses $({name}): {problem}")


def _check_params(params: Sequence[ParamSpec], where: Where) -> None:
    for index, param in enumerate(params):
        place = where.field("params").item(index)
        if param.default is not None and type_of(param.default) is not param.type:
            raise place.field("default").error(f"is {param.default!r}: expected {param.type.value} as the param's type")
        if param.enum and param.type is not ResultType.STRING:
            raise place.field("enum").error("is for params of type string only")
        if param.enum and param.default and param.default not in param.enum:
            raise place.field("default").error(f"is {param.default!r}, which is not in the enum")


def _check_step(step: Mapping[str, Any], template: Mapping[str, Any], where: Where) -> None:
    name = step.get("name")
    if name and _LABEL.fullmatch(name) is None and "$(" not in name:
        raise where.field("name").error(f"is {name!r}: expected lower case letters, digits and '-'")
    if step.get("script") and step.get("command"):
        raise where.error("has both script and command")
    if not step.get("script") and not step.get("command") and not template.get("command"):
        raise where.error("needs script or command: images are not run, so there is no entrypoint to fall back on")
    check_duration(step.get("timeout"), where.field("timeout"))


def check_duration(text: str | None, where: Where) -> None:
    """Refuse what is no Go duration."""
    if text is None:
        return
    try:
        duration.parse(text)
    except ValueError as error:
        raise where.error(f"is {text!r}: {error}") from None


def _task_problem(name: str, params: set[str], workspaces: set[str], embedded: bool) -> str | None:
    """Why a variable means nothing in a task; None when it does. Names of other kinds are the shell's."""
    if is_param(name):
        return None if param_of(name, params) is not None else "there is no such param"
    match = re.fullmatch(r"results(?:\.(.+)|\[['\"](.+)['\"]\])\.path", name)
    if match:
        return f"there is no result {match[1] or match[2]!r}"
    match = _WORKSPACE.fullmatch(name)
    if match:
        return None if match[1] in workspaces else f"there is no workspace {match[1]!r}"
    if name.startswith(_CONTEXTS):
        known = name in _TASK_CONTEXT or (embedded and name in _PIPELINE_CONTEXT)
        return None if known else "there is no such context variable in a task"
    match = re.fullmatch(r"steps\.([^.]+)\.exitCode\.path", name)
    if match:
        return f"there is no step {match[1]!r} (a step's name is written with step- before it)"
    if name.startswith(_NOT_LOCAL):
        return "this variable is not supported by the local runner"
    return None


def check_pipeline(pipeline: Pipeline, where: Where, *, run_params: Iterable[str]) -> None:
    """Refuse a pipeline that could not run. `run_params` are those of the PipelineRun that it is embedded in."""
    _check_params(pipeline.params, where)
    params = {param.name for param in pipeline.params} | set(run_params)
    seen: set[str] = set()
    for section, tasks in (("tasks", pipeline.tasks), ("finally", pipeline.finally_)):
        for index, task in enumerate(tasks):
            place = where.field(section).item(index)
            if task.name in seen:
                raise place.field("name").error(f"is {task.name!r}, which appears more than once")
            seen.add(task.name)
            _check_pipeline_task(task, place, pipeline, params, section)
    try:
        dependencies(pipeline.tasks)
    except ValueError as error:
        raise where.field("tasks").error(f"are in no order: {error}") from None
    tasks_by_name = {task.name: task for task in pipeline.all_tasks}
    for section in ("tasks", "finally", "results"):
        for use in result_uses(pipeline.tree.get(section)):
            if use.quoted:
                raise where.field(section).error(
                    f"uses tasks.{use.task}.results['{use.result}']: Tekton finds no dependency in this form; "
                    f"write $(tasks.{use.task}.results.{use.result})"
                )
            producer = tasks_by_name.get(use.task)
            if producer is not None and producer.matrix and not use.star and section != "results":
                raise where.field(section).error(
                    f'uses the result {use.result!r} of the matrixed task "{use.task}", which can only be consumed '
                    "in aggregate, with [*]"
                )


def _check_pipeline_task(task: PipelineTask, where: Where, pipeline: Pipeline, params: set[str], section: str) -> None:
    if _LABEL.fullmatch(task.name) is None:
        raise where.field("name").error(f"is {task.name!r}: expected lower case letters, digits and '-'")
    if (task.task_ref is None) == (task.spec is None):
        raise where.error("needs one of taskRef and taskSpec")
    check_duration(task.timeout, where.field("timeout"))
    if task.matrix is not None:
        _check_matrix(task, where)
    if section == "finally":
        if task.run_after:
            raise where.field("runAfter").error("has no meaning in finally: all its tasks start together")
        of_tasks = {other.name for other in pipeline.tasks}
        for use in task.result_uses():
            if use.task not in of_tasks:
                raise where.error(f'uses a result of "{use.task}", which is not among the pipeline\'s tasks')
    ordered = {(use.task, use.result) for use in task.result_uses()}
    for item in task.workspaces:
        for use in result_uses(item.sub_path):
            if (use.task, use.result) not in ordered:
                raise where.field("workspaces").error(
                    f"uses $(tasks.{use.task}.results.{use.result}) in a subPath only: Tekton replaces it there only "
                    "if a param or when uses it as well"
                )
    if task.spec is not None:
        own = params | {name for name, _ in task.params} | {name for name, _ in _matrix_params(task)}
        check_task(task.spec, where.field("taskSpec"), propagated=own, embedded=True)
    _check_variables(task, where, params, section)


def _matrix_params(task: PipelineTask) -> list[tuple[str, Any]]:
    if task.matrix is None:
        return []
    return [*task.matrix.params, *(param for include in task.matrix.include for param in include.params)]


def _check_matrix(task: PipelineTask, where: Where) -> None:
    assert task.matrix is not None
    given = {name for name, _ in task.params}
    for name, _ in _matrix_params(task):
        if name in given:
            raise where.field("matrix").error(f"and params both give the param {name!r}")
    for name, value in task.matrix.params:
        if not isinstance(value, list) and not (isinstance(value, str) and value.startswith("$(")):
            raise where.field("matrix.params").error(f"gives {name!r} the value {value!r}: expected an array")
    for include in task.matrix.include:
        for name, value in include.params:
            if not isinstance(value, str):
                raise where.field("matrix.include").error(f"gives {name!r} the value {value!r}: expected a string")


def _check_variables(task: PipelineTask, where: Where, params: set[str], section: str) -> None:
    used = {
        "params": [value for _, value in task.params],
        "matrix": [value for _, value in _matrix_params(task)],
        "when": [[item.input, *item.values] for item in task.when],
        "displayName": task.display_name,
        "workspaces": [item.sub_path for item in task.workspaces],
        "taskRef.name": task.task_ref,
        "onError": task.on_error,
    }
    own = {name for name, _ in _matrix_params(task)} if task.matrix else set()
    for key, tree in used.items():
        for _, text in strings(tree):
            for name in names(text):
                visible = params | own if key == "displayName" else params
                problem = None
                if is_param(name):
                    problem = None if param_of(name, visible) is not None else "the pipeline has no such param"
                elif name.startswith("tasks.") and result_use(name) is None and _LENGTH.fullmatch(name) is None:
                    if _STATE.fullmatch(name) is None:
                        problem = "this variable is not supported by the local runner"
                    elif section != "finally":
                        problem = "the state of tasks is known in finally only"
                elif name.startswith("context.pipeline") and name not in _PIPELINE_CONTEXT:
                    problem = "there is no such context variable in a pipeline"
                if problem:
                    raise where.field(key).error(f"uses $({name}): {problem}")


def check_run_timeouts(spec: Mapping[str, Any], where: Where) -> None:
    """Refuse timeouts of a run that are no durations, or that do not fit together."""
    timeouts = {key: value for key, value in (spec.get("timeouts") or {}).items() if value is not None}
    for key, value in timeouts.items():
        check_duration(value, where.field(f"timeouts.{key}"))
    check_duration(spec.get("timeout"), where.field("timeout"))
    for index, item in enumerate(spec.get("taskRunSpecs") or ()):
        check_duration(item.get("timeout"), where.field("taskRunSpecs").item(index).field("timeout"))
    seconds = {key: duration.parse(value) for key, value in timeouts.items()}
    whole = seconds.get("pipeline", 3600.0)
    if whole and seconds.get("tasks", 0) + seconds.get("finally", 0) > whole:
        raise where.field("timeouts").error(
            f"do not fit together: tasks and finally take longer than the pipeline's {duration.show(whole)}"
        )
