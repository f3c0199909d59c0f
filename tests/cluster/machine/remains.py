"""What of a cluster is on the host: after `down`, nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tests.cluster.machine import cgroups, network
from tests.cluster.machine.places import Places


@dataclass(frozen=True)
class Remains:
    """Everything that a cluster has on the host; false when there is nothing."""

    processes: list[int]
    mounts: list[str]
    """Of the host; the node's own go with its namespace."""
    groups: list[str]
    """The topmost of each hierarchy."""
    interfaces: list[str]
    directories: list[str]

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in found.items() if values)


def find(places: Places) -> Remains:
    """What there is now."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split()[4] for line in file]
    return Remains(
        processes=sorted(cgroups.processes(places.name)),
        mounts=[mount for mount in mounts if f"{mount}/".startswith(f"{places.home}/")],
        groups=[str(group) for group in cgroups.topmost(places.name)],
        interfaces=[places.link] if network.exists(places) else [],
        directories=[str(places.home)] if places.home.exists() else [],
    )
