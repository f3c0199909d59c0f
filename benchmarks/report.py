"""The tables that a run prints, and its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.contenders import PLAIN
from benchmarks.routes import PUT_FILE
from benchmarks.sampling import BYTES, COUNT, SECONDS, Figure, Recorder
from benchmarks.targets import Target
from resultsfs.units import format_size

FORMAT = 1
"""The version of the JSON's shape."""
_BASES = (PLAIN, PUT_FILE)


def to_dict(
    machine: dict[str, str], scale: str, recorder: Recorder, targets: Sequence[Target], seconds: float
) -> dict[str, Any]:
    """The whole run for JSON: every sample, so that others can judge the spread."""
    return {
        "format": FORMAT,
        "scale": scale,
        "seconds": round(seconds, 1),
        "machine": machine,
        "figures": [_with_ratio(figure, recorder) for figure in recorder.figures],
        "missing": recorder.missing,
        "targets": [target.to_dict() for target in targets],
    }


def _with_ratio(figure: Figure, recorder: Recorder) -> dict[str, Any]:
    values = figure.to_dict()
    base = _base(figure, recorder)
    if base is not None and base is not figure:
        ratio = figure.ratio(base)
        values["ratio"] = {"to": base.contender, "median": ratio.median, "low": ratio.low, "high": ratio.high}
    return values


def _base(figure: Figure, recorder: Recorder) -> Figure | None:
    """The figure that others of its row are compared with."""
    if figure.unit != SECONDS:
        return None
    for name in _BASES:
        found = recorder.find(figure.group, figure.name, name)
        if found is not None:
            return found
    return None


def show(console: Console, machine: dict[str, str], recorder: Recorder, targets: Sequence[Target]) -> None:
    """Print machine, a table for each group, what is missing, and the targets."""
    facts = Table("", "", title="machine", box=None, show_header=False, title_justify="left", title_style="bold")
    for name, value in machine.items():
        facts.add_row(name, value)
    console.print(facts)
    for group in dict.fromkeys(figure.group for figure in recorder.figures):
        console.print()
        console.print(_table(group, recorder))
    console.print()
    console.print("Medians; × is the ratio to the row's first column, its quartiles in brackets.")
    for name, why in recorder.missing.items():
        console.print(f"missing: {name}: {why}", markup=False, highlight=False)
    if targets:
        console.print()
        console.print(_targets(targets))


def _table(group: str, recorder: Recorder) -> Table:
    figures = [figure for figure in recorder.figures if figure.group == group]
    columns = list(dict.fromkeys(figure.contender for figure in figures))
    table = Table(title=group, box=box.SIMPLE, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name in dict.fromkeys(figure.name for figure in figures):
        found = [recorder.find(group, name, column) for column in columns]
        table.add_row(name, *(_cell(figure, recorder) if figure else "–" for figure in found))
    return table


def _cell(figure: Figure, recorder: Recorder) -> str:
    shown = _value(figure.spread.median, figure.unit)
    base = _base(figure, recorder)
    if base is None or base is figure:
        return shown
    ratio = figure.ratio(base)
    return f"{shown}\n{ratio.median:.2f}× ({ratio.low:.2f} to {ratio.high:.2f})"


def _value(value: float, unit: str) -> str:
    if unit == BYTES:
        return format_size(int(value))
    if unit == COUNT:
        return f"{value:.0f}"
    if unit != SECONDS:
        return f"{value:.2f} {unit}"
    for factor, name in ((1.0, "s"), (1e-3, "ms")):
        if value >= factor:
            return f"{value / factor:.3g} {name}"
    return f"{value / 1e-6:.3g} µs"


def _targets(targets: Sequence[Target]) -> Table:
    table = Table("contender", "target", "measured", "", title="targets", box=box.SIMPLE, title_justify="left")
    for target in targets:
        table.add_row(target.contender, target.text, target.shown, _verdict(target))
    return table


def _verdict(target: Target) -> Text:
    if target.reached is None:
        return Text("–")
    return Text("reached", "green") if target.reached else Text("not reached", "bold red")
