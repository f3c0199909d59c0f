"""The processes of an installed resultsfs, as the host sees them."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.machine import cgroups
from tests.cluster.machine.places import Places

PROGRAMS = {
    "driver": ("csi", "driver"),
    "mounter": ("csi", "mounter"),
    "holder": ("resultsfs.holder",),
    "controller": ("controller", "serve"),
}
"""The words after `python -m`, by container."""


def pids(places: Places, program: str) -> list[int]:
    """The processes of one of PROGRAMS on the cluster's node; one for each of the controller's replicas."""
    wanted = ["-m", *PROGRAMS[program]]
    return sorted(pid for pid in cgroups.processes(places.name) if _arguments(pid)[: len(wanted)] == wanted)


def _arguments(pid: int) -> list[str]:
    try:
        found = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found.decode(errors="replace").split("\0")[1:]
