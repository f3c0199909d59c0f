"""Who is asking: whether a request comes from the process by which Tekton gathers results.

Pids and executables only choose between two views of the pod's own files; they never grant anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Collector:
    """One collector process; `started` (clock ticks since boot) tells a reused pid from the one before.

    `publishes`: what it reads reaches Tekton. One that only looks, and throws away what it finds, finds nothing.
    """

    pid: int
    started: int
    publishes: bool = field(default=True, compare=False)


Identify = Callable[[int], Collector | None]
"""From the pid of a request (a thread's id, in the mount's PID namespace) to its collector process, or None."""


def nobody(pid: int) -> Collector | None:
    """No process is a collector: a mount that only stores."""
    return None


def _status(pid: int) -> dict[str, str] | None:
    """The fields of /proc/<pid>/status; None when the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except (FileNotFoundError, ProcessLookupError):
        return None


def _process(pid: int) -> Collector | None:
    status = _status(pid)
    if status is None:
        return None
    group = int(status["Tgid"])
    try:
        with open(f"/proc/{group}/stat", encoding="utf-8", errors="replace") as file:
            # the second field is a name in parentheses and may hold anything, also spaces and parentheses
            return Collector(group, int(file.read().rpartition(")")[2].split()[19]))
    except (FileNotFoundError, ProcessLookupError):
        return None


class ByExecutable:
    """Collectors are the processes that run one of these files, told by device and inode.

    A name alone would not do: a chroot or container changes the text, and a step can be called anything.
    Files that do not exist yet are looked up again at each question. Reading another user's link needs
    CAP_SYS_PTRACE; without it the process counts as no collector.
    """

    def __init__(self, *paths: str) -> None:
        self._paths = paths

    def __call__(self, pid: int) -> Collector | None:
        """The collector process behind a request's pid."""
        if pid <= 0:
            return None
        try:
            found = os.stat(f"/proc/{pid}/exe")
        except OSError:
            return None
        for path in self._paths:
            try:
                wanted = os.stat(path)
            except OSError:
                continue
            if (wanted.st_dev, wanted.st_ino) == (found.st_dev, found.st_ino):
                return _process(pid)
        return None


class ByLink:
    """Collectors are the processes whose executable has this path in their own container, which we cannot look into.

    Known by that text alone, so any step may pass for one: it would only see other views of its own pod's files.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, pid: int) -> Collector | None:
        """The collector process behind a request's pid."""
        if pid <= 0:
            return None
        try:
            return _process(pid) if os.readlink(f"/proc/{pid}/exe") == self._path else None
        except OSError:
            return None


class ForSidecar:
    """Where a sidecar collects: it is the collector; the others, who throw away what they read, find no results.

    `sidecar` and `others` tell each kind.
    """

    def __init__(self, sidecar: Identify, others: Identify) -> None:
        self._sidecar = sidecar
        self._others = others

    def __call__(self, pid: int) -> Collector | None:
        """The collector process behind a request's pid."""
        found = self._sidecar(pid)
        if found is not None:
            return found
        found = self._others(pid)
        return None if found is None else replace(found, publishes=False)


class ByParent:
    """Collectors are the children of one process: the local runner's pod process."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, pid: int) -> Collector | None:
        """The collector process behind a request's pid."""
        if pid <= 0:
            return None
        status = _status(pid)
        if status is None or int(status["PPid"]) != self._parent:
            return None
        return _process(pid)


def is_dying(pid: int) -> bool:
    """Whether a thread is gone or has been sent SIGKILL, so that nobody waits for the answer any more."""
    status = _status(pid)
    if status is None:
        return True
    sigkill = 1 << 8
    return any(int(status.get(key, "0"), 16) & sigkill for key in ("SigPnd", "ShdPnd")) or status["State"][0] in "ZX"


def is_gone(collector: Collector) -> bool:
    """Whether a process has ended, with all its threads, though its parent may not have asked for it yet."""
    status = _status(collector.pid)
    if status is None or (status["State"][0] in "ZX" and status.get("Threads") in ("0", "1")):
        return True
    return _process(collector.pid) != collector  # the pid is another's


def groups(pid: int) -> frozenset[int]:
    """The supplementary groups of a thread; none when it is gone."""
    status = _status(pid) or {}
    return frozenset(int(group) for group in status.get("Groups", "").split())
