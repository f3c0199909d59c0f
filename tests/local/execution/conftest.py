"""What the tests of execution share: a way to run a TaskRun, and the proof that nothing of it is left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from resultsfs.local.plan import Output, ResultDeclaration, StepPlan, TaskRunOutcome, TaskRunPlan
from resultsfs.local.pod import execute
from resultsfs.settings import Settings

DEADLINE = 100.0


def processes_in(directory: Path) -> list[int]:
    """The pids whose mount namespace shows something of this directory."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            text = Path(f"/proc/{name}/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if str(directory) in text:
            found.append(int(name))
    return found


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; fail with `what` at the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


class Background:
    """A TaskRun that runs in a thread, and whose step has said something."""

    def __init__(self, machine: Machine, plan: TaskRunPlan, **more: Any) -> None:
        self._up = threading.Event()
        self._outcome: Future[TaskRunOutcome] = Future()
        self._thread = threading.Thread(target=self._run, args=(machine, plan, more))
        self._thread.start()
        assert self._up.wait(DEADLINE)
        if self._outcome.done():
            self.outcome()

    def _run(self, machine: Machine, plan: TaskRunPlan, more: dict[str, Any]) -> None:
        try:
            self._outcome.set_result(machine.execute(plan, lambda step, line: self._up.set(), **more))
        except Exception as error:  # noqa: BLE001
            self._outcome.set_exception(error)
        finally:
            self._up.set()

    def outcome(self) -> TaskRunOutcome:
        """How it ended, when it has."""
        self._thread.join()
        return self._outcome.result()


class Machine:
    """Runs TaskRuns whose temporary directories are below `pods`; `lines` are those of all of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pods = directory / "pods"
        self.pods.mkdir()
        self.lines: list[tuple[str, str]] = []

    def plan(
        self, *steps: StepPlan | str, results: tuple[str | ResultDeclaration, ...] = (), **more: Any
    ) -> TaskRunPlan:
        """A TaskRun in stock mode; a step given as text is a script."""
        values: dict[str, Any] = {
            "name": "run",
            "namespace": "default",
            "run_uid": uuid4(),
            "run_kind": "TaskRun",
            "run_name": "run",
            "settings": Settings(store=f"file://{self.directory}/store"),
            "stock": True,
            "steps": tuple(
                StepPlan(f"s{index}", script=step) if isinstance(step, str) else step
                for index, step in enumerate(steps)
            ),
            "results": tuple(ResultDeclaration(item) if isinstance(item, str) else item for item in results),
        }
        return TaskRunPlan(**{**values, **more})

    def execute(self, plan: TaskRunPlan, output: Output | None = None, **more: Any) -> TaskRunOutcome:
        """Run it, keeping its lines."""
        return execute(plan, output or (lambda step, line: self.lines.append((step, line))), **more)

    def run(self, *steps: StepPlan | str, **more: Any) -> TaskRunOutcome:
        """Plan and execute."""
        return self.execute(self.plan(*steps, **more))

    def start(self, plan: TaskRunPlan, **more: Any) -> Background:
        """Run it in a thread; returns when its step has said something."""
        return Background(self, plan, **more)

    def said(self, step: str = "s0") -> list[str]:
        """The lines of one step."""
        return [line for name, line in self.lines if name == step]

    def processes(self) -> list[int]:
        """The pids of all that runs in these pods."""
        return processes_in(self.pods)

    def pod_process(self) -> int:
        """The pod process: of those in the pod's mount namespace the one whose parent is this process."""
        for pid in self.processes():
            with suppress(OSError):  # it has ended meanwhile
                if f"PPid:\t{os.getpid()}\n" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8"):
                    return pid
        raise AssertionError("no pod process")

    def wait_until_gone(self) -> None:
        """Wait until no process sees any of these pods."""
        wait_for(lambda: not self.processes(), "processes or mounts of the pod remain")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A Machine; afterwards no process, mount or directory of its TaskRuns is left, and / is as it was."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "pods"))
    root = sorted(os.listdir("/"))
    made = Machine(tmp_path)
    yield made
    assert processes_in(made.pods) == []
    assert list(made.pods.iterdir()) == []
    assert sorted(os.listdir("/")) == root
