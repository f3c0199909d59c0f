"""Figures, and how they are taken: all contenders within each repetition, so that noise hits all alike."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from benchmarks import processes
from benchmarks.scale import GIB

SECONDS, BYTES, SECONDS_PER_GIB, COUNT = "s", "bytes", "s/GiB", "count"
CPU = "daemon's CPU"
"""The group of what daemons used; followed by where they ran, as in the group's own name."""


class Measured(Protocol):
    """Whoever is measured: a name for the column, and the processes that do the work besides ours."""

    @property
    def name(self) -> str:
        """The column."""
        ...

    @property
    def pids(self) -> Sequence[int]:
        """The daemon's processes; empty where the kernel or this process does all."""
        ...


M = TypeVar("M", bound=Measured)


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its quartiles (with fewer than four samples: the extremes)."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """The spread of at least one sample."""
        if len(samples) < 4:
            return cls(statistics.median(samples), min(samples), max(samples))
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True, slots=True)
class Figure:
    """One cell: what a contender needed for one thing, a sample for each repetition."""

    group: str
    name: str
    contender: str
    unit: str
    samples: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Median and quartiles, in the figure's unit."""
        return Spread.of(self.samples)

    def ratio(self, base: Figure) -> Spread:
        """How many times as much as `base`: repetition by repetition, then median and quartiles."""
        return Spread.of([mine / its for mine, its in zip(self.samples, base.samples, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """The figure for JSON."""
        spread = self.spread
        return {
            "group": self.group,
            "name": self.name,
            "contender": self.contender,
            "unit": self.unit,
            "median": spread.median,
            "low": spread.low,
            "high": spread.high,
            "samples": list(self.samples),
        }


class Recorder:
    """Collects figures, and why some are missing. `tell` is called with what is measured next."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.figures: list[Figure] = []
        self.missing: dict[str, str] = {}
        """By contender, or contender and figure: why there is no number."""
        self.tell = tell
        self._order = random.Random(0)

    def add(self, group: str, name: str, contender: str, unit: str, *samples: float) -> None:
        """Record a figure."""
        self.figures.append(Figure(group, name, contender, unit, samples))

    def interleaved(
        self,
        group: str,
        name: str,
        contenders: Sequence[M],
        repetitions: int,
        sample: Callable[[M], float],
        *,
        volume: int = 0,
        after: Callable[[M], None] | None = None,
    ) -> None:
        """Take `sample` (seconds) of each contender in each repetition, each time in another order.

        With `volume`, the bytes that one sample moves, the daemons' CPU is recorded too. `after` puts things back,
        which is neither timed nor counted. A contender that raises
        OSError is left out of this figure and noted; one that must not fail is the base, and its error is raised.
        """
        self.tell(f"{group}: {name}")
        running = list(contenders)
        samples: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        burnt: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for _ in range(repetitions):
            for contender in self._order.sample(running, len(running)):
                try:
                    before = processes.cpu_seconds(contender.pids)
                    samples[contender.name].append(sample(contender))
                    burnt[contender.name].append(processes.cpu_seconds(contender.pids) - before)
                    if after is not None:
                        after(contender)
                except OSError as error:
                    if contender is contenders[0]:
                        raise
                    self.missing[f"{contender.name}, {group}: {name}"] = f"it failed: {error}"
                    running.remove(contender)
        for contender in running:
            self.add(group, name, contender.name, SECONDS, *samples[contender.name])
            if volume and contender.pids:
                each = [seconds * GIB / volume for seconds in burnt[contender.name]]
                self.add(
                    CPU + group.partition(",")[1] + group.partition(",")[2],
                    name,
                    contender.name,
                    SECONDS_PER_GIB,
                    *each,
                )

    def find(self, group: str, name: str, contender: str) -> Figure | None:
        """A recorded figure; None if it was not measured."""
        for figure in self.figures:
            if (figure.group, figure.name, figure.contender) == (group, name, contender):
                return figure
        return None
