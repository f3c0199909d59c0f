"""One TaskRun: content back into its params, variables replaced, executed as often as its retries allow.

The stages of substitution and their order are those of tektoncd/pipeline `pkg/reconciler/taskrun/taskrun.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from resultsfs.errors import ResultsError, StoreError
from resultsfs.events import Event
from resultsfs.local import duration, workspaces
from resultsfs.local.model import Params, Task, TaskSpec, WorkspaceBinding
from resultsfs.local.outcome import OneAtATime, RunFailed, TaskRunRecord
from resultsfs.local.params import effective, enum_problem, out_of_range, task_problem
from resultsfs.local.plan import Execute, StepPlan, TaskRunOutcome, TaskRunPlan
from resultsfs.local.substitution import Replacements, expand_environment
from resultsfs.local.workspaces import Room
from resultsfs.record import Keep, Mode
from resultsfs.resolve import Content, PutBack, resolve
from resultsfs.settings import Settings

_CANCELLED = "TaskRun cancelled as the PipelineRun it belongs to has timed out."


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all TaskRuns of a run share. `content` is None in stock mode; `clock` counts seconds."""

    namespace: str
    run_uid: UUID
    run_kind: str
    run_name: str
    settings: Settings
    execute: Execute
    content: Content | None
    room: Room
    tell: OneAtATime
    clock: Callable[[], float]
    mode: Mode = Mode.TERMINATION_MESSAGE
    stock: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One TaskRun to do. `timeout` in seconds; `deadline` is the run's, on its clock, None for none."""

    name: str
    task: Task
    params: Params
    bindings: tuple[WorkspaceBinding, ...]
    annotations: Mapping[str, str]
    embedded: bool
    pipeline_task: str | None = None
    retries: int = 0
    timeout: float | None = None
    deadline: float | None = None
    kept: Mapping[str, Keep] = field(default_factory=dict)
    uid: UUID = field(default_factory=uuid4)


class NotCreated(Exception):
    """The TaskRun was refused before it existed; the message says why."""


@dataclass(frozen=True, slots=True)
class Performed:
    """A TaskRun's record; `cancelled` when the run's deadline, not its own timeout, ended it."""

    record: TaskRunRecord
    cancelled: bool = False


def perform(job: Job, around: Surroundings) -> Performed:
    """Do a TaskRun. Raises NotCreated when its params cannot be resolved, and what `execute` raises."""
    settings = around.settings.narrowed(job.annotations)
    params, task, put_back = _admit(job, around, settings)
    attempt = 0
    while True:
        attempt += 1
        _tell_start(job, around, attempt)
        remaining = None if job.deadline is None else max(job.deadline - around.clock(), 0.001)
        limits = [limit for limit in (job.timeout, remaining) if limit]
        try:
            plan = _plan(job, around, settings, params, task, attempt - 1, min(limits, default=None))
        except RunFailed as error:
            outcome = TaskRunOutcome("Failed", error.reason, error.message)
            return _finished(job, around, outcome, attempt, put_back)
        outcome = around.execute(
            plan, lambda step, line: around.tell(lambda observer: observer.output(job.name, step, line))
        )
        for event in outcome.events:
            _tell_event(job, around, event)
        cancelled = outcome.reason == "TaskRunTimeout" and plan.timeout == remaining
        if cancelled:
            message = f'TaskRun "{job.name}" was cancelled. {_CANCELLED}'
            outcome = TaskRunOutcome("Failed", "TaskRunCancelled", message, outcome.results, outcome.events)
        if outcome.status == "Succeeded" or outcome.reason == "TaskRunCancelled" or attempt > job.retries:
            return _finished(job, around, outcome, attempt, put_back, cancelled)


def _tell_start(job: Job, around: Surroundings, attempt: int) -> None:
    around.tell(lambda observer: observer.task_started(job.name, job.pipeline_task, attempt))


def _tell_event(job: Job, around: Surroundings, event: Event) -> None:
    around.tell(lambda observer: observer.event(job.name, event))


def _finished(
    job: Job,
    around: Surroundings,
    outcome: TaskRunOutcome,
    attempts: int,
    put_back: tuple[PutBack, ...],
    cancelled: bool = False,
) -> Performed:
    record = TaskRunRecord(
        name=job.name,
        pipeline_task=job.pipeline_task,
        status=outcome.status,
        reason=outcome.reason,
        message=outcome.message,
        results=outcome.results,
        events=outcome.events,
        attempts=attempts,
        put_back=put_back,
    )
    around.tell(lambda observer: observer.task_finished(record))
    return Performed(record, cancelled)


def _admit(job: Job, around: Surroundings, settings: Settings) -> tuple[Params, Task, tuple[PutBack, ...]]:
    """What TaskRun admission does on a cluster."""
    if around.content is None or around.stock:
        return job.params, job.task, ()
    try:
        resolution = resolve(
            job.params,
            job.task.spec.tree if job.embedded else None,
            around.content,
            as_path=settings.params_as_path,
            limit=settings.param_inline_limit,
            label=job.pipeline_task or job.name,
        )
    except StoreError as error:
        raise NotCreated(
            f'pipeline task "{job.pipeline_task or job.name}": the store cannot be read: {error}'
        ) from error
    except ResultsError as error:
        raise NotCreated(str(error)) from error
    task = job.task
    if job.embedded:
        task = Task(task.name, TaskSpec.of(resolution.task_spec), task.annotations)
    return resolution.params, task, resolution.put_back


def _plan(
    job: Job,
    around: Surroundings,
    settings: Settings,
    given: Params,
    task: Task,
    retry: int,
    timeout: float | None,
) -> TaskRunPlan:
    spec = task.spec
    if problem := task_problem(spec.params, given):
        raise RunFailed("TaskRunValidationFailed", f"invalid input params for task {task.name}: {problem}")
    if problem := enum_problem(spec.params, given):
        raise RunFailed("InvalidParamValue", problem)
    try:
        params = effective(spec.params, given)
    except ValueError as error:
        raise RunFailed("TaskRunValidationFailed", str(error)) from None
    of_params = Replacements.of_params(params, in_task=True)
    # The task as it was written: what is put back into it may hold any text.
    if wrong := out_of_range([job.task.spec.tree.get("steps"), job.task.spec.tree.get("stepTemplate")], of_params):
        raise RunFailed("TaskRunValidationFailed", f"non-existent param references:[{' '.join(wrong)}]")
    declarations = workspaces.declared(job.task.spec, job.bindings, embedded=job.embedded)
    bindings = {item.name: item for item in workspaces.replaced(job.bindings, of_params)}
    contexts = Replacements(
        {
            "context.taskRun.name": job.name,
            "context.task.name": task.name,
            "context.taskRun.namespace": around.namespace,
            "context.taskRun.uid": str(job.uid),
            "context.task.retry-count": str(retry),
        }
    )
    for stage in (of_params, contexts):
        declarations = tuple(workspaces.with_path(item, stage.text(item.mount_path)) for item in declarations)
    steps: Any = spec.tree["steps"]
    template: Any = spec.tree.get("stepTemplate") or {}
    for stage in (of_params, contexts, workspaces.variables(declarations, bindings), Replacements(spec.paths())):
        steps, template = stage.tree(steps), stage.tree(template)
    for item in declarations:
        if item.read_only and item.name in bindings:
            _tell_event(
                job,
                around,
                Event(
                    "WorkspaceReadOnlyNotEnforced",
                    f'workspace "{item.name}" is declared readOnly, which the local runner does not enforce',
                ),
            )
    return TaskRunPlan(
        name=job.name,
        namespace=around.namespace,
        run_uid=around.run_uid,
        run_kind=around.run_kind,
        run_name=around.run_name,
        steps=tuple(_step(step, template, index) for index, step in enumerate(steps)),
        settings=settings,
        results=spec.results,
        pipeline_task=job.pipeline_task,
        workspaces={
            item.mount_path: around.room.directory(bindings[item.name], f"{job.name}.{retry}")
            for item in declarations
            if item.name in bindings
        },
        timeout=timeout,
        kept={name: keep for name, keep in job.kept.items() if name in {result.name for result in spec.results}},
        mode=around.mode,
        stock=around.stock,
    )


def _step(step: Mapping[str, Any], template: Mapping[str, Any], index: int) -> StepPlan:
    """A step with what the template adds; command, args and env expanded as the kubelet does it."""
    merged = {key: value for key, value in {**template, **step}.items() if value is not None}
    env: dict[str, str] = {}
    for item in [*(template.get("env") or ()), *(step.get("env") or ())]:
        env[item["name"]] = item.get("value") or ""
    expanded: dict[str, str] = {}
    for name, value in env.items():
        expanded[name] = expand_environment(value, expanded)
    script = step.get("script") or None
    on_error = merged.get("onError") or "stopAndFail"
    if on_error not in ("stopAndFail", "continue"):
        problem = f'step "{step.get("name") or index}": onError is {on_error!r}: expected stopAndFail or continue'
        raise RunFailed("TaskRunValidationFailed", problem)
    return StepPlan(
        name=step.get("name") or f"unnamed-{index}",
        script=script,
        command=() if script else tuple(expand_environment(item, expanded) for item in merged.get("command") or ()),
        args=tuple(expand_environment(item, expanded) for item in merged.get("args") or ()),
        env=expanded,
        working_dir=merged.get("workingDir"),
        on_error="continue" if on_error == "continue" else "stopAndFail",
        stdout_path=(merged.get("stdoutConfig") or {}).get("path"),
        stderr_path=(merged.get("stderrConfig") or {}).get("path"),
        timeout=duration.parse(merged["timeout"]) if merged.get("timeout") else None,
        image=merged.get("image") or "",
    )
