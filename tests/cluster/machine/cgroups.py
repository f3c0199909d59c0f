"""The cluster's part of each cgroup hierarchy: made, its processes found and killed, removed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

_NODE = "node"
"""The group of the node's own processes, beside the kubelet's `kubepods`."""
_CONTROLLERS = "cgroup.subtree_control"


def hierarchies() -> list[Path]:
    """Where the hierarchies are mounted: one with version 2, one for each controller with version 1."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = [line.split() for line in file]
    types = ("cgroup", "cgroup2")
    return sorted({Path(line[4]) for line in lines if line[line.index("-") + 1] in types})


def unified() -> bool:
    """Whether this machine has version 2 alone."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def make(name: str) -> None:
    """Make the cluster's group in every hierarchy, and in it that of the node's processes. Raises OSError."""
    for hierarchy in hierarchies():
        group = hierarchy / name
        (group / _NODE).mkdir(parents=True, exist_ok=True)
        for made in (group, group / _NODE):
            for settings in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts them empty, and then takes no process
                if (made / settings).exists() and not unified():
                    (made / settings).write_text((made.parent / settings).read_text())
        if (group / _CONTROLLERS).exists():
            for parent in (hierarchy, group):
                wanted = (parent / "cgroup.controllers").read_text().split()
                enabled = (parent / _CONTROLLERS).read_text().split()
                for controller in sorted({*wanted} - {*enabled}):
                    (parent / _CONTROLLERS).write_text(f"+{controller}")


def join(name: str) -> None:
    """Put the calling process into the group of the node's processes. Raises OSError."""
    for hierarchy in hierarchies():
        (hierarchy / name / _NODE / "cgroup.procs").write_text("0")


def topmost(name: str) -> list[Path]:
    """The cluster's own group in each hierarchy that has one."""
    return [hierarchy / name for hierarchy in hierarchies() if (hierarchy / name).exists()]


def groups(name: str) -> list[Path]:
    """Every group of the cluster that there is, children before their parents."""
    found: list[Path] = []
    for top in topmost(name):
        for directory, _, _ in os.walk(top, topdown=False):
            found.append(Path(directory))
    return found


def processes(name: str) -> set[int]:
    """All processes in the cluster's groups, containers' too. Those of a foreign process namespace are left out."""
    return {pid for group in groups(name) for pid in _members(group) if pid != 0}


def _members(group: Path) -> Iterator[int]:
    try:
        yield from map(int, (group / "cgroup.procs").read_text().split())
    except OSError:  # ENOENT or ENODEV: removed meanwhile
        if group.exists():
            raise


def kill(name: str) -> None:
    """Send SIGKILL to all processes of the cluster."""
    for pid in processes(name):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def remove(name: str) -> bool:
    """Remove the cluster's groups. False as long as one cannot go yet, for a process in it is still ending."""
    for group in groups(name):
        try:
            group.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
