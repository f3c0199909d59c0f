"""How a run ended, and who is told on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from resultsfs.events import Event
from resultsfs.local.plan import ResultOutcome
from resultsfs.resolve import PutBack

Status = Literal["Succeeded", "Failed"]


class RunFailed(Exception):
    """The run cannot go on; `reason` and `message` are those that Tekton would give."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class TaskRunRecord:
    """One TaskRun as it ended. `attempts` counts executions; `put_back` is content resolved into its params."""

    name: str
    pipeline_task: str | None
    status: Status
    reason: str
    message: str
    results: tuple[ResultOutcome, ...] = ()
    events: tuple[Event, ...] = ()
    attempts: int = 1
    put_back: tuple[PutBack, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A pipeline task that did not run, and Tekton's reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A whole run as it ended."""

    kind: Literal["TaskRun", "PipelineRun"]
    name: str
    namespace: str
    uid: UUID
    status: Status
    reason: str
    message: str
    results: tuple[ResultOutcome, ...] = ()
    task_runs: tuple[TaskRunRecord, ...] = ()
    skipped: tuple[Skipped, ...] = ()


class Observer:
    """Told of a run's progress; override what is of interest. Calls come one at a time, from several threads."""

    def run_started(self, kind: str, name: str) -> None:
        """The run begins."""

    def task_started(self, task_run: str, pipeline_task: str | None, attempt: int) -> None:
        """A TaskRun begins (again: `attempt` counts from 1)."""

    def output(self, task_run: str, step: str, line: str) -> None:
        """A step printed a line."""

    def event(self, task_run: str | None, event: Event) -> None:
        """Something happened that a cluster would show as an Event."""

    def task_finished(self, record: TaskRunRecord) -> None:
        """A TaskRun ended for good."""

    def task_skipped(self, skipped: Skipped) -> None:
        """A pipeline task will not run."""

    def run_finished(self, outcome: RunOutcome) -> None:
        """The run ended."""


@dataclass(slots=True)
class OneAtATime:
    """Hands calls on to an observer under a lock."""

    observer: Observer
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, tell: Callable[[Observer], None]) -> None:
        """Let `tell` speak to the observer."""
        with self._lock:
            tell(self.observer)
