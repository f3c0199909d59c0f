"""Operations on files, as a step makes them: made and written, opened and read, asked after."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.sampling import Recorder
from benchmarks.scale import KIB, MIB, Scale
from benchmarks.settling import settle, write_file
from resultsfs.units import format_size

GROUP = "files"
CREATE, OPEN, STAT = "create+write+close", "open+read+close", "stat"


def written(size: int) -> str:
    """The name of the figure for files of one size."""
    return f"{CREATE} {format_size(size)}"


def run(contenders: Sequence[Contender], scale: Scale, recorder: Recorder, group: str = GROUP) -> None:
    """Take the group's figures."""
    for size, count in scale.written.items():
        repetitions = scale.repetitions if size < 10 * MIB else scale.long_repetitions
        recorder.interleaved(group, written(size), contenders, repetitions, partial(_create, size, count))
    recorder.interleaved(group, f"{OPEN} 1 KiB", contenders, scale.repetitions, partial(_open, scale.operations))
    recorder.interleaved(group, STAT, contenders, scale.repetitions, partial(_stat, scale.operations))


def _create(size: int, count: int, contender: Contender) -> float:
    """Seconds for one new file, the median of `count`; they are removed again, which is not timed."""
    settle(size * count)
    paths = [contender.path / f"made-{number}" for number in range(count)]
    taken = []
    try:
        for path in paths:
            began = time.perf_counter()
            write_file(path, size, min(size, MIB))
            taken.append(time.perf_counter() - began)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    return statistics.median(taken)


def _open(count: int, contender: Contender) -> float:
    path = contender.path / "small"
    write_file(path, KIB, KIB)
    try:
        return statistics.median(_open_once(path) for _ in range(count))
    finally:
        path.unlink()


def _open_once(path: Path) -> float:
    began = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    read = os.read(descriptor, 2 * KIB)
    os.close(descriptor)
    taken = time.perf_counter() - began
    if len(read) != KIB:
        raise OSError(f"{path}: {len(read)} bytes were read of {KIB}")
    return taken


def _stat(count: int, contender: Contender) -> float:
    path = contender.path / "small"
    write_file(path, KIB, KIB)
    try:
        return statistics.median(_stat_once(path) for _ in range(count))
    finally:
        path.unlink()


def _stat_once(path: Path) -> float:
    began = time.perf_counter()
    os.stat(path)
    return time.perf_counter() - began
