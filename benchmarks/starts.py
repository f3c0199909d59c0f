"""How long a mount takes from its process's start to a first file, and what memory it then has."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import processes
from benchmarks.contenders import Contender
from benchmarks.sampling import BYTES, Recorder
from benchmarks.scale import Scale

GROUP = "start"
FIRST, RESIDENT = "first file after the start", "memory after the first file"


def run(contenders: Sequence[Contender], scale: Scale, recorder: Recorder) -> None:
    """Take the group's figures."""
    started = [contender for contender in contenders if contender.pids]
    if not started:
        return
    memory: dict[str, list[float]] = {}

    def start(contender: Contender) -> float:
        taken = contender.start_again()
        memory.setdefault(contender.name, []).append(processes.resident(contender.pids))
        return taken

    recorder.interleaved(GROUP, FIRST, started, scale.long_repetitions, start)
    for name, samples in memory.items():
        recorder.add(GROUP, RESIDENT, name, BYTES, *samples)
