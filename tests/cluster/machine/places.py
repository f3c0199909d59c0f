"""Where a cluster keeps what it has, and what it is called on the host."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


def _xdg(variable: str, otherwise: str) -> Path:
    found = os.environ.get(variable, "")
    return Path(found) if os.path.isabs(found) else Path.home() / otherwise


def cache_directory() -> Path:
    """What is built or downloaded, for all checkouts: `$XDG_CACHE_HOME/resultsfs`."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "resultsfs"


@dataclass(frozen=True)
class Places:
    """The paths and names of one cluster. All of them are gone after `down`, but for the lock."""

    home: Path
    """Everything that the cluster writes is below it."""
    name: str
    """`resultsfs-<hash>`: its cgroup."""

    @property
    def link(self) -> str:
        """The host's network interface to the node; at most 15 characters."""
        return "rfs-" + self.name.rpartition("-")[2]

    @property
    def lock(self) -> Path:
        """Held by whoever changes the cluster."""
        return cache_directory() / "locks" / self.name

    @property
    def logs(self) -> Path:
        """A log of each component."""
        return self.home / "logs"

    @property
    def pod_logs(self) -> Path:
        """Logs of containers, by pod: the node's /var/log/pods."""
        return self.home / "pod-logs"

    @property
    def keys(self) -> Path:
        """Certificates, keys and the components' kubeconfigs."""
        return self.home / "keys"

    @property
    def configs(self) -> Path:
        """The components' configuration files."""
        return self.home / "configs"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.home / "kubeconfig"

    @property
    def socket(self) -> Path:
        """Where the node's supervisor listens."""
        return self.home / "node.sock"

    @property
    def node_record(self) -> Path:
        """Which process is the node's first."""
        return self.home / "node.json"

    @property
    def network_record(self) -> Path:
        """Which addresses the cluster has."""
        return self.home / "network.json"


def places(instance: str = "") -> Places:
    """The places of this checkout's cluster; `instance` names a further one of the same checkout."""
    name = "resultsfs-" + hashlib.sha256(f"{CHECKOUT}\n{instance}".encode()).hexdigest()[:8]
    home = _xdg("XDG_STATE_HOME", ".local/state") / "resultsfs" / f"cluster-{name.rpartition('-')[2]}"
    return Places(home=home, name=name)
