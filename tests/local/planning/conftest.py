"""An executor whose steps are lines of a small language, so that the orchestration alone is under test.

result NAME TEXT    write a result (the text may be JSON for arrays and objects)
spill NAME TEXT     write it to the store and publish its reference (arrays: element by element)
whole NAME JSON     publish an array as the whole-array reference
print TEXT          one line of output
fail                end the step, and the TaskRun, with Failed
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from resultsfs.events import Event
from resultsfs.local.documents import load
from resultsfs.local.outcome import Observer, RunOutcome, Skipped, TaskRunRecord
from resultsfs.local.plan import Output, ResultOutcome, TaskRunOutcome, TaskRunPlan
from resultsfs.local.runner import Machine, run
from resultsfs.record import ResultType, ResultValue
from resultsfs.reference import Reference
from resultsfs.resolve import StoredContent
from resultsfs.settings import Settings
from resultsfs.store import Key, Store


@dataclass
class Told(Observer):
    """Keeps all that an observer is told."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def task_started(self, task_run: str, pipeline_task: str | None, attempt: int) -> None:
        """A TaskRun began."""
        self.calls.append(("started", pipeline_task, attempt))

    def output(self, task_run: str, step: str, line: str) -> None:
        """A line was printed."""
        self.calls.append(("output", task_run, step, line))

    def event(self, task_run: str | None, event: Event) -> None:
        """An event happened."""
        self.calls.append(("event", event.reason, event.message))

    def task_finished(self, record: TaskRunRecord) -> None:
        """A TaskRun ended."""
        self.calls.append(("finished", record.pipeline_task, record.status))

    def task_skipped(self, skipped: Skipped) -> None:
        """A task was skipped."""
        self.calls.append(("skipped", skipped.name, skipped.reason))


@dataclass
class World:
    """A store in memory, the executor above, and what was planned with it."""

    store: Store
    room: Path
    settings: Settings = field(default_factory=Settings)
    plans: list[TaskRunPlan] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    clock: Callable[[], float] = lambda: 0.0
    before: Callable[[TaskRunPlan], TaskRunOutcome | None] = lambda plan: None
    stock: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, text: str, params: Sequence[tuple[str, str]] = (), name: str | None = None) -> RunOutcome:
        """Run a file's text."""
        machine = Machine(
            execute=self.execute,
            content=lambda namespace: StoredContent(self.store, namespace),
            room=self.room,
            settings=self.settings,
            clock=lambda: self.clock(),
            stock=self.stock,
        )
        return run(load(text, "test.yaml"), machine, params=params, name=name, observer=self.told)

    def plan(self, task: str) -> TaskRunPlan:
        """The only plan of a pipeline task."""
        found = [plan for plan in self.plans if plan.pipeline_task == task]
        assert len(found) == 1, [plan.name for plan in self.plans]
        return found[0]

    def execute(self, plan: TaskRunPlan, output: Output) -> TaskRunOutcome:
        """Execute one TaskRun."""
        with self.lock:
            self.plans.append(plan)
        early = self.before(plan)
        if early is not None:
            return early
        results: dict[str, ResultOutcome] = {}
        for step in plan.steps:
            for line in (step.script or "").splitlines():
                word, _, rest = line.strip().partition(" ")
                name, _, text = rest.partition(" ")
                if word == "print":
                    output(step.name, rest)
                elif word in ("result", "spill", "whole"):
                    results[name] = self._result(plan, name, text, word)
                elif word == "fail":
                    ended = f'"step-{step.name}" exited with code 1'
                    return TaskRunOutcome("Failed", "Failed", ended, tuple(results.values()))
        return TaskRunOutcome("Succeeded", "Succeeded", "All Steps have completed executing", tuple(results.values()))

    def _result(self, plan: TaskRunPlan, name: str, text: str, how: str) -> ResultOutcome:
        kind = {result.name: result.type for result in plan.results}[name]
        value: ResultValue = text if kind is ResultType.STRING else json.loads(text)
        if how == "spill":
            if isinstance(value, str):
                value = self.put(plan.namespace, plan.run_uid, value.encode())
            elif isinstance(value, list):
                value = [self.put(plan.namespace, plan.run_uid, item.encode()) for item in value]
            else:
                value = {key: self.put(plan.namespace, plan.run_uid, item.encode()) for key, item in value.items()}
        elif how == "whole":
            value = [self.put(plan.namespace, plan.run_uid, text.encode()) + "[*]"]
        content = text.encode()
        digest = hashlib.sha256(content).hexdigest()
        return ResultOutcome(name, kind, len(content), digest, how != "result", value)

    def put(self, namespace: str, run_uid: uuid.UUID, content: bytes) -> str:
        """Store content; its reference."""
        reference = Reference.of(run_uid, hashlib.sha256(content).hexdigest())
        self.store.put(Key.of(namespace, reference), lambda: iter([content]), len(content))
        return str(reference)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world of its own for each test."""
    store = Store.open(Settings(store=f"memory://{uuid.uuid4().hex}", store_retries=0))
    yield World(store, tmp_path)
    store.close()
