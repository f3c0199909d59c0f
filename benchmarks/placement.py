"""Where client and daemon run: on one core, or on one each. Waking another core costs a request more than serving it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from benchmarks.sampling import Measured


class Placement(Enum):
    """The client, which is this process, and the daemons."""

    ONE_CORE = "one core"
    TWO_CORES = "two cores"

    def of(self, group: str) -> str:
        """The name of a group's figures in this placement."""
        return f"{group}, {self.value}"


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def possible(placement: Placement) -> bool:
    """Whether this machine has the cores for it."""
    return placement is Placement.ONE_CORE or len(cores()) > 1


@contextmanager
def placed(placement: Placement, measured: Sequence[Measured]) -> Iterator[None]:
    """Keep this process and all threads of the daemons where they belong; free again afterwards."""
    free = cores()
    daemons = {free[0]} if placement is Placement.ONE_CORE else {free[1]}
    pids = [pid for one in measured for pid in one.pids]
    try:
        os.sched_setaffinity(0, {free[0]})
        _keep(pids, daemons)
        yield
    finally:
        os.sched_setaffinity(0, free)
        _keep(pids, set(free))


def _keep(pids: Sequence[int], wanted: set[int]) -> None:
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread, or a daemon that was started again
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), wanted)
