"""What a process has used, from /proc."""

from __future__ import annotations

import os
from collections.abc import Sequence

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Sequence[int]) -> float:
    """Seconds of CPU that processes have used so far, all threads, user and system. Raises OSError."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        # the second field is a name in parentheses and may hold anything, also spaces and parentheses
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pids: Sequence[int]) -> int:
    """Bytes of memory that processes have resident now (VmRSS). Raises OSError."""
    return sum(_status(pid, "VmRSS") for pid in pids)


def peak(pids: Sequence[int]) -> int:
    """The most bytes that processes ever had resident (VmHWM). Raises OSError."""
    return sum(_status(pid, "VmHWM") for pid in pids)


def proportional(pids: Sequence[int]) -> int:
    """Bytes of memory that processes have, what several share divided among them (PSS). Raises OSError."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            total += next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    return total


def _status(pid: int, field: str) -> int:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
    raise OSError(f"/proc/{pid}/status has no {field}: the process has ended")
