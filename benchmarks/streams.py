"""Large files from end to end: written in blocks, read with and without the page cache."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.contenders import Contender
from benchmarks.sampling import Recorder
from benchmarks.scale import KIB, MIB, Scale
from benchmarks.settling import settle, write_file
from resultsfs.units import format_size

GROUP = "streams"
_BLOCKS = (MIB, 4 * KIB)


def sequential(size: int, block: int) -> str:
    """The name of the figure for a file of that size, written in such blocks."""
    return f"write {format_size(size)} in {format_size(block)} blocks"


def read(size: int, kind: str) -> str:
    """The name of the figure for a file of that size, read `cold` or `warm`."""
    return f"read {format_size(size)}, {kind}"


def run(contenders: Sequence[Contender], scale: Scale, recorder: Recorder, group: str = GROUP) -> None:
    """Take the group's figures."""
    for block in _BLOCKS:
        recorder.interleaved(
            group,
            sequential(scale.stream, block),
            contenders,
            scale.long_repetitions,
            partial(_write, scale.stream, block),
            volume=scale.stream,
            after=lambda contender: (contender.path / "stream").unlink(),
        )
    for kind, take in (("cold", _read_cold), ("warm", _read_warm)):
        recorder.interleaved(
            group,
            read(scale.read, kind),
            contenders,
            scale.long_repetitions,
            partial(take, scale.read),
            volume=scale.read if kind == "cold" else 2 * scale.read,  # a warm read has another before it
        )


def _write(size: int, block: int, contender: Contender) -> float:
    settle(2 * size)  # where the content goes through a daemon, the page cache holds it twice
    began = time.perf_counter()
    write_file(contender.path / "stream", size, block)
    return time.perf_counter() - began


def read_file(path: Path) -> int:
    """Read a file to its end in blocks of 1 MiB; how many bytes it had."""
    buffer = bytearray(MIB)
    total = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return total


def _read(path: Path, size: int) -> float:
    began = time.perf_counter()
    total = read_file(path)
    taken = time.perf_counter() - began
    if total != size:
        raise OSError(f"{path}: {total} bytes were read of {size}")
    return taken


def _forget(path: Path) -> None:
    """Drop a file from the page cache, as far as whoever runs this may."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_cold(size: int, contender: Contender) -> float:
    path = contender.path / "read"
    write_file(path, size, MIB)
    try:
        if machine.may_drop_caches():
            machine.drop_caches()
        else:
            _forget(path)
            beneath = contender.beneath("read")
            if beneath is not None:
                _forget(beneath)
        settle(size)  # after the caches were dropped, memory is free and must be got again
        return _read(path, size)
    finally:
        path.unlink()


def _read_warm(size: int, contender: Contender) -> float:
    path = contender.path / "read"
    write_file(path, size, MIB)
    try:
        read_file(path)
        return _read(path, size)
    finally:
        path.unlink()
