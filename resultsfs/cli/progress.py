"""A run as it goes, for a person: each task, its steps' output, what was decided. Written to stderr."""

from __future__ import annotations

import time

from rich.console import Console
from rich.text import Text

from resultsfs.events import Event
from resultsfs.local.outcome import Observer, Skipped, TaskRunRecord
from resultsfs.units import format_size

STYLES = {"Succeeded": "green", "Failed": "red"}


class Progress(Observer):
    """Prints line by line, so that it reads the same in a terminal and in a log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, tuple[str, float]] = {}

    def _line(self, *parts: str | tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts), soft_wrap=True, highlight=False)

    def _task(self, task_run: str) -> str:
        return self._tasks.get(task_run, (task_run, 0.0))[0]

    def run_started(self, kind: str, name: str) -> None:
        """Name the run, and say what is different here."""
        self._line((f"{kind} {name}", "bold"))
        self._line(("Images are not run: steps are processes of this machine.", "dim"))

    def task_started(self, task_run: str, pipeline_task: str | None, attempt: int) -> None:
        """Name the task."""
        task = pipeline_task or task_run
        self._tasks[task_run] = (task, time.monotonic())
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self._line(("▶ ", "cyan"), (task, "bold cyan"), f" {task_run}{again}" if task != task_run else again)

    def output(self, task_run: str, step: str, line: str) -> None:
        """Print one line of a step."""
        self._line((f"  [{self._task(task_run)} : {step}] ", "dim"), line)

    def event(self, task_run: str | None, event: Event) -> None:
        """Print an event."""
        where = f"{self._task(task_run)}: " if task_run else ""
        style = "yellow" if event.warning else "blue"
        self._line(("  ! ", style), where, (event.reason, style), f": {event.message}")

    def task_finished(self, record: TaskRunRecord) -> None:
        """Say how the task ended, and what was put back into its params."""
        task, began = self._tasks.get(record.name, (record.pipeline_task or record.name, time.monotonic()))
        good = record.status == "Succeeded"
        style = STYLES[record.status]
        for put_back in record.put_back:
            self._line(("  ← ", "cyan"), f"{task}: {format_size(put_back.size)} put back into {put_back.where}")
        why = "" if good else f": {record.reason}: {record.message}"
        seconds = time.monotonic() - began
        self._line(("✔ " if good else "✘ ", style), (task, style), f" {record.status} in {seconds:.1f} s{why}")

    def task_skipped(self, skipped: Skipped) -> None:
        """Say that a task will not run, and why."""
        self._line(("⏭ ", "yellow"), (skipped.name, "yellow"), f" skipped: {skipped.reason}")
