"""What the filesystem is to reach, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import durable, files, memory, mounts, streams
from benchmarks.contenders import NATIVE, PLAIN, WITHOUT
from benchmarks.placement import Placement
from benchmarks.routes import PUT_FILE
from benchmarks.sampling import CPU, Recorder
from benchmarks.scale import FULL, KIB, MIB, Scale
from resultsfs.units import format_size


@dataclass(frozen=True, slots=True)
class Target:
    """One target, for one of our transports. `value` None: it was not measured in this run."""

    contender: str
    text: str
    value: float | None
    shown: str
    reached: bool | None

    def to_dict(self) -> dict[str, Any]:
        """The target for JSON."""
        return asdict(self)


def judge(chosen: Sequence[str], scale: Scale, recorder: Recorder) -> list[Target]:
    """All targets for all transports of ours in `chosen`."""
    return [target for name in chosen for target in _judge(name, scale, recorder)]


def _judge(name: str, scale: Scale, recorder: Recorder) -> Iterator[Target]:
    figures = _Figures(name, recorder)
    if name == NATIVE:
        yield from _passthrough(figures, scale)
        yield from _mounts(figures, scale)
    elif name == WITHOUT:
        yield from _speeds(figures, scale, ONE, (MIB, 0.18), (4 * KIB, 0.5))
        return
    else:
        yield figures.at_most(f"{files.written(min(scale.written))}: {{}} times a plain directory", 8, _small(scale))
        yield from _speeds(figures, scale, ONE, (MIB, 0.15))
    yield from _store(figures, scale)


class _Figures:
    """One contender's figures, and the targets that are made of them."""

    def __init__(self, name: str, recorder: Recorder) -> None:
        self._name = name
        self._recorder = recorder

    def value(self, group: str, figure: str) -> float | None:
        """A median."""
        found = self._recorder.find(group, figure, self._name)
        return found.spread.median if found else None

    def ratio(self, group: str, figure: str, base: str = PLAIN) -> float | None:
        """How many times as much as `base` needs."""
        ours, theirs = self._recorder.find(group, figure, self._name), self._recorder.find(group, figure, base)
        return ours.ratio(theirs).median if ours and theirs else None

    def target(
        self, text: str, value: float | None, show: Callable[[float], str], reached: Callable[[float], bool]
    ) -> Target:
        """A target."""
        if value is None:
            return Target(self._name, text, None, "not measured", None)
        return Target(self._name, text, value, show(value), reached(value))

    def at_most(self, text: str, most: float, place: tuple[str, str], base: str = PLAIN) -> Target:
        """A ratio that is not to be exceeded; `{}` in the text stands for it."""
        return self.target(
            text.format(f"at most {most:g}"), self.ratio(*place, base), "{:.2f}×".format, lambda value: value <= most
        )

    def speed(self, text: str, least: float, place: tuple[str, str]) -> Target:
        """A part of a plain directory's speed."""
        slower = self.ratio(*place)
        return self.target(
            f"{text}: at least {least:g} of a plain directory's speed",
            1 / slower if slower else None,
            "{:.2f} of its speed".format,
            lambda value: value >= least,
        )


ONE, TWO = Placement.ONE_CORE, Placement.TWO_CORES


def _small(scale: Scale) -> tuple[str, str]:
    return ONE.of(files.GROUP), files.written(min(scale.written))


def _speeds(figures: _Figures, scale: Scale, placement: Placement, *least: tuple[int, float]) -> Iterator[Target]:
    for block, part in least:
        figure = streams.sequential(scale.stream, block)
        yield figures.speed(f"{figure}, {placement.value}", part, (placement.of(streams.GROUP), figure))


def _passthrough(figures: _Figures, scale: Scale) -> Iterator[Target]:
    warm = streams.read(scale.read, "warm")
    for placement, parts in ((ONE, (0.9, 0.6, 0.9)), (TWO, (0.65, 0.65, 0.65))):
        yield from _speeds(figures, scale, placement, (MIB, parts[0]), (4 * KIB, parts[1]))
        yield figures.speed(f"{warm}, {placement.value}", parts[2], (placement.of(streams.GROUP), warm))
    for figure in (streams.sequential(scale.stream, MIB), streams.sequential(scale.stream, 4 * KIB), warm):
        yield figures.target(
            f"{figure}: less than 0.1 s of the daemon's CPU for each GiB",
            figures.value(ONE.of(CPU), figure),
            "{:.2f} s/GiB".format,
            lambda value: value < 0.1,
        )
    yield figures.at_most(
        f"{files.written(min(scale.written))}, one core: {{}} times a plain directory", 3.5, _small(scale)
    )
    yield figures.at_most(
        "stat of a known file, one core: {} times a plain directory", 1.2, (ONE.of(files.GROUP), files.STAT)
    )


def _mounts(figures: _Figures, scale: Scale) -> Iterator[Target]:
    most = max(scale.mounts)
    for count in scale.mounts:
        yield figures.target(
            f"{mounts.first(count)} at most 5 ms after the request",
            figures.value(mounts.GROUP, mounts.first(count)),
            lambda value: f"{value * 1000:.1f} ms",
            lambda value: value <= 0.005,
        )
    yield figures.target(
        f"{mounts.idle(most)}: at most 0.2 MB",
        figures.value(mounts.GROUP, mounts.idle(most)),
        lambda value: f"{value / 1e6:.3f} MB",
        lambda value: value <= 200_000,
    )


def _store(figures: _Figures, scale: Scale) -> Iterator[Target]:
    durably = durable.until_durable(max(scale.durable))
    yield figures.at_most(f"{durably}: {{}} times a direct upload by s3fs", 1.3, (durable.GROUP, durably), PUT_FILE)
    yield figures.target(
        f"results of {format_size(KIB)} never touch the store",
        figures.value(durable.GROUP, durable.CONNECTIONS),
        "{:.0f} connections".format,
        lambda value: value == 0,
    )
    yield figures.target(
        f"memory grows by less than 64 MiB while {format_size(scale.memory)} are written, spilled and read back",
        figures.value(memory.GROUP, memory.GROWTH),
        lambda value: format_size(int(value)),
        lambda value: value < 64 * MIB,
    )


def note(scale: Scale) -> str | None:
    """What to know about a run that was not the full one."""
    if scale == FULL:
        return None
    return f"This was the {scale.name} run: the targets are meant for the sizes of the full one."
