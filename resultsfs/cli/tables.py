"""Runs and results as tables, on stdout."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resultsfs.cli.history import PastRun
from resultsfs.cli.progress import STYLES
from resultsfs.local.outcome import RunOutcome
from resultsfs.local.plan import ResultOutcome
from resultsfs.local.stock import Fate, Verdict
from resultsfs.reference import Reference
from resultsfs.store import Key, Store
from resultsfs.units import format_size
from resultsfs.value import references

_PREVIEW = 40
_WIDE = 160  # columns where nobody's terminal limits them


def console() -> Console:
    """A console on stdout that does not break lines into pieces where they go into a file."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_WIDE)


def grid(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table in the house's style."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def held(result: ResultOutcome) -> str:
    """How Tekton's status holds a result: `inline`, `spilled`, or a skeleton with some elements spilled."""
    if not result.spilled:
        return "inline"
    if isinstance(result.value, str):
        return "spilled"
    whole = len(result.value) == 1 and any("[*]" in text for text in result.value)
    return "spilled (whole array)" if whole else f"skeleton ({len(references(result.value))} spilled)"


def size(count: int) -> str:
    """Bytes, exactly where it is decided by the byte."""
    return f"{count} B" if count < 1 << 16 else format_size(count)


def preview(result: ResultOutcome) -> str:
    """The beginning of what is inline."""
    if result.spilled:
        return "reference, see below"
    text = result.value if isinstance(result.value, str) else str(result.value)
    shown = text[:_PREVIEW].encode("unicode_escape").decode() if not text.isprintable() else text[:_PREVIEW]
    return shown + ("…" if len(text) > _PREVIEW else "")


def task_labels(outcome: RunOutcome) -> dict[str, str]:
    """What each TaskRun is called: its task, with its own name where the task has several."""
    tasks = {task_run.name: task_run.pipeline_task or task_run.name for task_run in outcome.task_runs}
    times = Counter(tasks.values())
    return {name: task if times[task] == 1 else f"{task} ({name})" for name, task in tasks.items()}


def results_of(outcome: RunOutcome) -> Iterator[tuple[str, ResultOutcome]]:
    """All results of a run with their task's label; the pipeline's own come last."""
    labels = task_labels(outcome)
    for task_run in outcome.task_runs:
        for result in task_run.results:
            yield labels[task_run.name], result
    if outcome.kind == "PipelineRun":
        for result in outcome.results:
            yield "(pipeline)", result


def show_results(out: Console, outcome: RunOutcome, store: Store) -> None:
    """The table of all results, then each reference with the place where its content lies."""
    rows = list(results_of(outcome))
    if not rows:
        out.print("No results.")
        return
    table = grid("TASK", "RESULT", "TYPE", "SIZE", "IN STATUS", "VALUE", right=("SIZE",))
    for task, result in rows:
        style = "magenta" if result.spilled else ""
        cells = (
            task,
            result.name,
            result.type.value,
            size(result.size),
            Text(held(result), style),
            Text(preview(result), "dim"),
        )
        table.add_row(*cells)
    out.print(table)
    lying: dict[Reference, str] = {}
    for task, result in rows:
        for reference in references(result.value):
            lying.setdefault(reference, f"{task} {result.name}")
    for reference, label in lying.items():
        out.print(Text(label, "magenta"))
        _wide(out, f"  reference  {reference}")
        _wide(out, f"  lies at    {store.location(Key.of(outcome.namespace, reference))}")
        _wide(out, f"  sha256     {reference.sha256}")


def show_skipped(out: Console, outcome: RunOutcome) -> None:
    """The tasks that did not run, and why."""
    for skipped in outcome.skipped:
        out.print(Text.assemble(("skipped  ", "yellow"), f"{skipped.name}: {skipped.reason}"), soft_wrap=True)


def show_verdicts(out: Console, verdicts: Mapping[str, Verdict]) -> None:
    """What plain Tekton would have done with the same sizes, by task."""
    if not verdicts:
        return
    out.print(Text("\nPlain Tekton, with results of these sizes:", "bold"))
    for task, verdict in verdicts.items():
        for line in _verdict_lines(task, verdict):
            out.print(line, soft_wrap=True)


def _verdict_lines(task: str, verdict: Verdict) -> Iterator[Text]:
    least = "" if verdict.exact else "at least "
    of = f"result {verdict.result} as a line" if verdict.result else "a message"
    size = f"{of} of {least}{verdict.size} bytes, {verdict.limit} are allowed"
    if verdict.fate is Fate.FITS:
        yield Text.assemble(("  ✔ ", "green"), f"{task}: the same ({size})")
    elif verdict.fate is Fate.CUT:
        yield Text.assemble(
            ("  ✘ ", "red"), f"{task}: Succeeded, with results lost ({size}): the kubelet cuts it silently"
        )
    else:
        yield Text.assemble(("  ✘ ", "red"), f"{task}: would have failed ({size})")
        yield Text(f"      TaskRun: {verdict.reason}")
        if verdict.said:
            yield Text(f"      log of {verdict.container}, or of an earlier step that wrote it: {verdict.said}")


def show_end(out: Console, outcome: RunOutcome) -> None:
    """How the run ended."""
    style = f"bold {STYLES[outcome.status]}"
    text = Text.assemble((f"\n{outcome.kind} {outcome.name}: {outcome.status}", style), f" ({outcome.reason})")
    out.print(text.append(f": {outcome.message}" if outcome.message else ""), soft_wrap=True)


def show_runs(out: Console, runs: Iterable[PastRun]) -> None:
    """The runs of this machine, the oldest first."""
    table = grid(
        "RUN", "KIND", "NAMESPACE", "STATUS", "STARTED", "TOOK", "RESULTS", "SPILLED", right=("TOOK", "RESULTS")
    )
    for run in runs:
        results = [result for _, result in results_of(run.outcome)]
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started))
        spilled = str(sum(result.spilled for result in results))
        status = Text(run.outcome.status, STYLES[run.outcome.status])
        took = f"{run.finished - run.started:.1f} s"
        names = (run.outcome.name, run.outcome.kind, run.outcome.namespace)
        table.add_row(*names, status, started, took, str(len(results)), spilled)
    out.print(table)


def _wide(out: Console, line: str) -> None:
    """A line that is not broken, so that it can be copied whole."""
    out.print(Text(line), soft_wrap=True)
