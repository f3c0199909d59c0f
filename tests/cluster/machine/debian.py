"""Debian's packages: daemons are only unpacked, outside the system, so that none is started or stands in one's way."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.machine.errors import ClusterError
from tests.cluster.machine.locking import locked
from tests.cluster.machine.places import cache_directory
from tests.cluster.machine.progress import say
from tests.cluster.machine.running import run


@dataclass(frozen=True)
class Package:
    """A package of the distribution and the directory in it that has its programs."""

    name: str
    programs: str

    @property
    def root(self) -> Path | None:
        """Where it has been unpacked, the newest version; None if it has not been."""
        found = [path for path in _cache().glob(f"{self.name}_*") if path.is_dir()]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    @property
    def version(self) -> str:
        """The distribution's version of what is unpacked."""
        return self._unpacked().name.partition("_")[2].replace("%3a", ":")

    @property
    def directory(self) -> Path:
        """The directory of its programs. Raises ClusterError if it is not unpacked."""
        return self._unpacked() / self.programs

    def _unpacked(self) -> Path:
        if self.root is None:
            raise ClusterError(f"Debian's package {self.name} is not in {_cache()}: run `make cluster-up`")
        return self.root


ETCD = Package("etcd-server", "usr/bin")
CONTAINERD = Package("containerd", "usr/bin")
RUNC = Package("runc", "usr/sbin")
CNI = Package("containernetworking-plugins", "usr/lib/cni")
PACKAGES = (ETCD, CONTAINERD, RUNC, CNI)
PROMETHEUS = Package("prometheus", "usr/bin")
"""Not the cluster's: `promtool` evaluates the chart's alerts."""
_INSTALLED = {
    "ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux", "mount": "mount", "setsid": "util-linux",
}  # fmt: skip
"""Commands that have to be on the machine, and Debian's packages that have them; none of them runs a daemon."""


def _cache() -> Path:
    return cache_directory() / "debian"


def missing_commands() -> dict[str, str]:
    """Commands that are not installed, and the packages that have them."""
    return {command: package for command, package in _INSTALLED.items() if shutil.which(command) is None}


def missing_packages() -> list[Package]:
    """Packages that are not unpacked yet."""
    return [package for package in PACKAGES if package.root is None]


def provide() -> None:
    """Install missing commands and unpack missing packages. Raises ClusterError that says what to install by hand."""
    commands, packages = missing_commands(), missing_packages()
    if not commands and not packages:
        return
    wanted = sorted({*commands.values(), *(package.name for package in packages)})
    if shutil.which("apt-get") is None:
        raise ClusterError(f"apt-get is not installed: on Debian or Ubuntu it gets {', '.join(wanted)}")
    with locked(cache_directory() / "locks" / "debian", lambda: say("another process asks apt: waiting for it")):
        run(["apt-get", "update", "-qq"], deadline=600)
        if commands:
            say(f"apt-get install {' '.join(sorted(set(commands.values())))}")
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *sorted(set(commands.values()))]
            run(command, deadline=900, environment=environment)
        for package in packages:
            _unpack(package)


def provided(package: Package) -> Path:
    """The directory of one package's programs, which is unpacked if it is not. Raises ClusterError."""
    if package.root is None:
        if shutil.which("apt-get") is None:
            raise ClusterError(f"apt-get is not installed: on Debian or Ubuntu it gets {package.name}")
        with locked(cache_directory() / "locks" / "debian", lambda: say("another process asks apt: waiting for it")):
            if package.root is None:
                run(["apt-get", "update", "-qq"], deadline=600)
                _unpack(package)
    return package.directory


def _unpack(package: Package) -> None:
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob(f".{package.name}-*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{package.name}-", dir=cache) as directory:
        download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package.name]
        run(download, directory=Path(directory), deadline=600)
        archive = next(Path(directory).glob("*.deb"))
        version = archive.name.split("_")[1]
        unpacked = Path(directory) / "unpacked"
        run(["dpkg-deb", "-x", archive, unpacked])
        if package == RUNC:
            run([unpacked / package.programs / "runc", "--version"])  # says if libseccomp2 is missing
        final = cache / f"{package.name}_{version}"
        if not final.exists():
            unpacked.rename(final)
    say(f"unpacked {final.name}")
