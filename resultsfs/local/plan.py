"""What the local runner's planning hands to its execution: one TaskRun, all variables substituted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import UUID

from resultsfs.events import Event
from resultsfs.record import Keep, Mode, ResultType, ResultValue
from resultsfs.settings import Settings


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Either `script` is set or `command` + `args`; `timeout` in seconds, None for no limit."""

    name: str
    script: str | None = None
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    on_error: Literal["stopAndFail", "continue"] = "stopAndFail"
    stdout_path: str | None = None
    stderr_path: str | None = None
    timeout: float | None = None
    image: str = ""


@dataclass(frozen=True, slots=True)
class ResultDeclaration:
    """A declared result; `properties` are an object's declared keys."""

    name: str
    type: ResultType = ResultType.STRING
    properties: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskRunPlan:
    """One TaskRun to execute. `workspaces` maps paths as steps see them to directories of this machine.

    `run_uid` and `run_kind`, `run_name` are the topmost run's. `stock`: no mount, a plain directory, as
    Tekton without resultsfs. `timeout` in seconds.
    """

    name: str
    namespace: str
    run_uid: UUID
    run_kind: str
    run_name: str
    steps: tuple[StepPlan, ...]
    settings: Settings
    results: tuple[ResultDeclaration, ...] = ()
    pipeline_task: str | None = None
    workspaces: Mapping[str, Path] = field(default_factory=dict)
    timeout: float | None = None
    kept: Mapping[str, Keep] = field(default_factory=dict)
    mode: Mode = Mode.TERMINATION_MESSAGE
    stock: bool = False


@dataclass(frozen=True, slots=True)
class ResultOutcome:
    """One result as it ended: `value` is what Tekton's status would hold (a reference stands for spilled
    content); `size` (bytes) and `sha256` (hex) are those of the content the step wrote."""

    name: str
    type: ResultType
    size: int
    sha256: str
    spilled: bool
    value: ResultValue


@dataclass(frozen=True, slots=True)
class TaskRunOutcome:
    """How a TaskRun ended: `reason` and `message` are those that Tekton would give."""

    status: Literal["Succeeded", "Failed"]
    reason: str
    message: str
    results: tuple[ResultOutcome, ...] = ()
    events: tuple[Event, ...] = ()


Output = Callable[[str, str], None]
"""Called with a step's name and one line of its output, while it runs."""

Execute = Callable[[TaskRunPlan, Output], TaskRunOutcome]
"""Executes one TaskRun: `resultsfs.local.pod.execute`."""
