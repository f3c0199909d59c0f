"""Running what a file asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from resultsfs.local import duration
from resultsfs.local.documents import Documents
from resultsfs.local.model import PipelineRun, TaskRun
from resultsfs.local.outcome import Observer, OneAtATime, RunOutcome
from resultsfs.local.params import overridden
from resultsfs.local.pipeline import PipelineRunner
from resultsfs.local.plan import Execute
from resultsfs.local.taskrun import Job, NotCreated, Surroundings, perform
from resultsfs.local.workspaces import Room
from resultsfs.record import Mode
from resultsfs.resolve import Content
from resultsfs.settings import Settings

_DEFAULT_TIMEOUT = 3600.0
"""Tekton's `default-timeout-minutes`, in seconds."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run needs of this machine.

    `execute` executes one TaskRun. `content` tells, for a namespace, what its references stand for. `room` is
    a directory for workspaces, which the caller removes. `clock` counts seconds and never goes back.
    """

    execute: Execute
    content: Callable[[str], Content]
    room: Path
    settings: Settings
    mode: Mode = Mode.TERMINATION_MESSAGE
    stock: bool = False
    clock: Callable[[], float] = time.monotonic


def run(
    documents: Documents,
    machine: Machine,
    *,
    params: Sequence[tuple[str, str]] = (),
    name: str | None = None,
    observer: Observer | None = None,
) -> RunOutcome:
    """Run the file's one run, or a run made for its Pipeline or Task; `name` chooses among several.

    `params` are `-p name=value` options. Raises InvalidDocument and InvalidSetting for what cannot be run at
    all, and what `execute` raises; a run that fails is an outcome, not an error.
    """
    chosen = documents.select(name)
    specs = chosen.task.spec.params if isinstance(chosen, TaskRun) else chosen.pipeline.params
    chosen = replace(chosen, params=overridden(specs, chosen.params, params))
    kind = "TaskRun" if isinstance(chosen, TaskRun) else "PipelineRun"
    around = Surroundings(
        namespace=chosen.namespace,
        run_uid=uuid4(),
        run_kind=kind,
        run_name=chosen.name,
        settings=machine.settings,
        execute=machine.execute,
        content=None if machine.stock else machine.content(chosen.namespace),
        room=Room(machine.room),
        tell=OneAtATime(observer or Observer()),
        clock=machine.clock,
        mode=machine.mode,
        stock=machine.stock,
    )
    around.tell(lambda told: told.run_started(kind, chosen.name))
    outcome = PipelineRunner(chosen, around).run() if isinstance(chosen, PipelineRun) else _task_run(chosen, around)
    around.tell(lambda told: told.run_finished(outcome))
    return outcome


def _task_run(run: TaskRun, around: Surroundings) -> RunOutcome:
    timeout = _DEFAULT_TIMEOUT if run.timeout is None else duration.parse(run.timeout)
    job = Job(
        name=run.name,
        task=run.task,
        params=run.params,
        bindings=run.workspaces,
        annotations={**run.task.annotations, **run.annotations},
        embedded=run.embedded,
        retries=run.retries,
        timeout=timeout or None,
        uid=around.run_uid,
    )
    try:
        record = perform(job, around).record
    except NotCreated as error:
        return RunOutcome("TaskRun", run.name, run.namespace, around.run_uid, "Failed", "CreateRunFailed", str(error))
    return RunOutcome(
        kind="TaskRun",
        name=run.name,
        namespace=run.namespace,
        uid=around.run_uid,
        status=record.status,
        reason=record.reason,
        message=record.message,
        results=record.results,
        task_runs=(record,),
    )
