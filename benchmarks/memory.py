"""The daemon's memory while a result of some GiB is written, spilled and read back by its reference."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks import processes
from benchmarks.contenders import resultsfs
from benchmarks.routes import Collected
from benchmarks.sampling import BYTES, Recorder
from benchmarks.scale import KIB, Scale
from benchmarks.streams import read_file
from resultsfs.units import format_size
from tests.support.rclone import S3Server

GROUP = "memory"
STARTED, BEFORE, SPILLED, AFTER, GROWTH = (
    "peak after the start",
    "peak after a small spill",
    "peak after the large result was written and spilled",
    "peak after it was read back",
    "growth",
)
_SMALL = 64 * KIB
_COPIES = 3  # in the spool, in the server, in the node cache


def run(chosen: Sequence[str], server: S3Server, directory: Path, scale: Scale, recorder: Recorder) -> None:
    """Take the group's figures, each with a daemon of its own. Raises OSError when the disk has no room."""
    needed, free = _COPIES * scale.memory, shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(f"{directory} has {format_size(free)} free: the memory figures need {format_size(needed)}")
    for name in chosen:
        recorder.tell(f"{GROUP}: {format_size(scale.memory)} through {name}")
        with resultsfs(name, server) as volume:
            way = Collected(volume)
            started = processes.peak(volume.pids)
            way.spill(_SMALL)
            before = processes.peak(volume.pids)
            reference = way.spill(scale.memory)
            spilled = processes.peak(volume.pids)
            total = read_file(volume.path / ".ref" / reference.name)
            after = processes.peak(volume.pids)
            if total != scale.memory:
                raise OSError(f"{name}: {total} bytes came back of {scale.memory}")
            os.unlink(volume.path / "report")
        values = (started, before, spilled, after, after - before)
        for figure, value in zip((STARTED, BEFORE, SPILLED, AFTER, GROWTH), values, strict=True):
            recorder.add(GROUP, figure, name, BYTES, value)
