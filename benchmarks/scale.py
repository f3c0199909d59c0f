"""How much a run measures: sizes in bytes, repetitions, operations in one repetition."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Scale:
    """One amount of work. `written` maps a size to how many files of it are made in one repetition.

    Ratios and targets are comparable between scales only as far as sizes are the same.
    """

    name: str
    repetitions: int
    """Of everything short."""
    long_repetitions: int
    """Of what takes seconds: streams, uploads, starts."""
    operations: int
    """Of opens and stats in one repetition."""
    written: dict[int, int]
    stream: int
    """Bytes written sequentially."""
    read: int
    """Bytes of the file that is read, cold and warm, and of the reference."""
    durable: tuple[int, ...]
    """Sizes whose way to the store is timed."""
    memory: int
    """Bytes of the result that shows the daemon's memory."""
    mounts: tuple[int, ...]
    """How many mounts there are at a time."""


FULL = Scale(
    name="full",
    repetitions=20,
    long_repetitions=5,
    operations=200,
    written={KIB: 100, 64 * KIB: 50, MIB: 10, 100 * MIB: 1},
    stream=GIB,
    read=100 * MIB,
    durable=(KIB, MIB, 100 * MIB),
    memory=4 * GIB,
    mounts=(1, 10, 100),
)

QUICK = Scale(
    name="quick",
    repetitions=5,
    long_repetitions=3,
    operations=100,
    written={KIB: 50, 64 * KIB: 20, MIB: 5, 100 * MIB: 1},
    stream=64 * MIB,
    read=100 * MIB,
    durable=(KIB, MIB, 100 * MIB),
    memory=256 * MIB,
    mounts=(1, 10),
)
