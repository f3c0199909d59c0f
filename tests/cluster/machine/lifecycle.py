"""Start, restart and remove a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from tests.cluster.images.archive import Image
from tests.cluster.images.importing import load
from tests.cluster.images.layers import Entry, cached, write_entries
from tests.cluster.machine import cgroups, credentials, debian, golang, network, settings
from tests.cluster.machine.components import Component, components, environment
from tests.cluster.machine.errors import ClusterError, NoGo
from tests.cluster.machine.locking import locked
from tests.cluster.machine.network import Network
from tests.cluster.machine.node import Node, tail
from tests.cluster.machine.places import Places
from tests.cluster.machine.progress import phase, say
from tests.cluster.machine.remains import Remains, find
from tests.cluster.machine.running import run
from tests.cluster.machine.waiting import until
from tests.support import tekton

_READY_SECONDS = 300.0
_STOP_SECONDS = 180.0


class Cluster:
    """One cluster of this machine."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.node = Node(places)

    def network(self) -> Network:
        """Its addresses. Raises ClusterError when it is not up."""
        found = network.read(self.places)
        if found is None:
            raise ClusterError("there is no cluster: run `make cluster-up`")
        return found

    def components(self) -> dict[str, Component]:
        """Its components by name, in the order in which they start. Raises ClusterError when it is not up."""
        return components(self.places, self.network(), self.node)

    def kubectl(self) -> list[str]:
        """The beginning of a kubectl command, as the administrator."""
        program = golang.kubernetes()[0]
        return [str(program.path), f"--kubeconfig={self.places.kubeconfig}"]

    def ctr(self) -> list[str]:
        """The beginning of a command of containerd's client in the node. Raises ClusterError when it is not up."""
        address = f"--address={settings.CONTAINERD_SOCKET}"
        return [*self.node.enter(), str(debian.CONTAINERD.directory / "ctr"), address]

    def up(self) -> None:
        """Build and start what Kubernetes alone lacks, and return when the node is Ready. Raises ClusterError."""
        require(bare=True)
        with self._locked():
            prepare()
            if self.node.pid is None or network.read(self.places) is None:
                if find(self.places):
                    say("removing what is left of a cluster that is not whole")
                    self._remove()
                with phase("node: namespaces, network, cgroups"):
                    self._start_node()
                with phase("certificates"):
                    credentials.issue(self.places, self.network())
                settings.write(self.places, self.network(), self._snapshotter())
            for group in (("etcd", "containerd"), ("apiserver",)):
                self._start(*group)
            with phase("pause image, roles"):
                load([pause()], self.ctr())
                run([*self.kubectl(), "apply", "--filename=-"], stdin=credentials.ROLES)
            self._start("kubelet", "controller-manager", "scheduler", "dns", "proxy")
            with phase("node Ready"):
                self._await_node()

    def down(self) -> None:
        """Remove the cluster and everything it left, also after a crash. Raises ClusterError naming what stays.

        It needs nothing of what was built.
        """
        if os.geteuid() != 0:
            raise ClusterError("nothing was removed: not root")
        if shutil.which("ip") is None:
            raise ClusterError("nothing was removed: `ip` is not installed, which Debian's package iproute2 has")
        with self._locked():
            self._remove()

    def restart(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a component by a signal, start it anew and return when it works. Raises ClusterError."""
        with self._locked():
            if name not in self.components():
                raise ClusterError(f"{name!r} is no component: one of {', '.join(self.components())}")
            self.node.signal(name, number)
            until(lambda: self.node.ended(name), _STOP_SECONDS, f"{name} ends")
            self._start(name)
            for other, component in self.components().items():
                if not self.node.ended(other):  # those that depend on it find it again
                    self._await(component)

    def load(self, archive: Path) -> None:
        """Import the images of a tar file into the node. Raises ClusterError."""
        run([*self.ctr(), "--namespace=k8s.io", "images", "import", "-"], source=archive, deadline=600)

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.places.lock, lambda: say("another process changes this cluster: waiting for it"))

    def _start_node(self) -> None:
        home = self.places.home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        pid = self.node.start(
            [
                (home / "disk", settings.DISK),
                (home / "kubelet", settings.KUBELET_HOME),
                (home / "containerd", settings.CONTAINERD_HOME),
                (self.places.pod_logs, "/var/log/pods"),
            ]
        )
        network.claim(self.places, pid)

    def _snapshotter(self) -> str:
        with tempfile.TemporaryDirectory(dir=self.places.home) as directory:
            for name in ("lower", "upper", "work", "merged"):
                (Path(directory) / name).mkdir()
            options = f"lowerdir={directory}/lower,upperdir={directory}/upper,workdir={directory}/work"
            command = ["unshare", "--mount", "mount", "-t", "overlay", "-o", options, "none", f"{directory}/merged"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            say(f"no overlay on the disk of {self.places.home}: containers' files are copied ({done.stderr.strip()})")
        return "overlayfs" if done.returncode == 0 else "native"

    def _start(self, *names: str) -> None:
        """Start those that do not run, together, and wait until they work."""
        known = self.components()
        with phase(", ".join(names)):
            for name in names:
                if self.node.ended(name):
                    self.node.launch(name, known[name].argv, environment())
                elif self.node.services()[name]["argv"] != [*known[name].argv]:
                    say(f"{name} runs as an older checkout started it: `make cluster-down` and up again renew it")
            for name in names:
                self._await(known[name])

    def _await(self, component: Component) -> None:
        wrong = ""

        def works() -> bool:
            nonlocal wrong
            if self.node.ended(component.name):
                code = self.node.services()[component.name]["code"]
                raise ClusterError(f"{component.name} ended with code {code}")
            wrong = component.ready()
            return not wrong

        try:
            until(works, _READY_SECONDS, f"{component.name} works")
        except ClusterError as error:
            log = self.places.logs / f"{component.name}.log"
            raise ClusterError(f"{error}; {wrong or 'no answer'}; {log} ends:\n{tail(log)}") from error

    def _await_node(self) -> None:
        wait = [*self.kubectl(), "wait", f"--timeout={_READY_SECONDS:.0f}s"]
        node, account = f"node/{settings.NODE}", "serviceaccount/default"
        for arguments in (["--for=create", node], ["--for=condition=Ready", node], ["--for=create", account]):
            run([*wait, *arguments], deadline=_READY_SECONDS + 30)

    def _remove(self) -> None:
        pid = self.node.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)  # the kernel ends all others in the node with it
        cgroups.kill(self.places.name)
        until(lambda: not cgroups.processes(self.places.name), _STOP_SECONDS, f"processes of {self.places.name} end")
        network.release(self.places)
        until(lambda: cgroups.remove(self.places.name), _STOP_SECONDS, f"the cgroups {self.places.name} can go")
        self._delete_files()
        left: Remains = find(self.places)
        if left:
            raise ClusterError(f"left behind: {left}")

    def _delete_files(self) -> None:
        home = self.places.home
        if home.exists():
            shutil.rmtree(home)
        if home.parent.exists() and not any(home.parent.iterdir()):
            home.parent.rmdir()


def prepare() -> None:
    """Get and build everything that is not there yet; needs no root when no package has to be installed."""
    programs = [*golang.own(), *golang.kubernetes()]
    with phase("Debian's packages"):
        debian.provide()
    with phase("programs"):
        golang.build(programs)


def require(*, bare: bool = False) -> None:
    """Raise ClusterError with all that this machine lacks for a cluster, if it lacks anything."""
    problems = missing(bare=bare)
    if problems:
        raise ClusterError("nothing was started:\n" + "\n".join(f"  {line}" for line in problems))


def missing(*, bare: bool = False) -> list[str]:
    """What this machine lacks for a cluster, or for Kubernetes alone, each with what follows from it."""
    found = []
    if os.uname().sysname != "Linux":
        found.append(f"this is {os.uname().sysname}: a cluster needs Linux")
    if os.geteuid() != 0:
        found.append("not root: no namespaces, mounts or containers. Run as root, or `python -m tests.cluster build`")
    if shutil.which("go") is None:
        found += _without_go(bare=bare)
    commands, packages = debian.missing_commands(), debian.missing_packages()
    if (commands or packages) and shutil.which("apt-get") is None:
        wanted = sorted({*commands.values(), *(package.name for package in packages)})
        found.append(f"no apt-get: cannot get {', '.join(wanted)}, which Debian and Ubuntu have")
    if not Path("/dev/kmsg").exists():
        found.append("no /dev/kmsg: the kubelet does not start without it")
    if not cgroups.hierarchies():
        found.append("no cgroups are mounted below /sys/fs/cgroup: the kubelet and runc need them")
    return found


def _without_go(*, bare: bool) -> list[str]:
    """What cannot be had where Go is not on PATH: nothing, once all has been built."""
    base = golang.missing([*golang.own(), *golang.kubernetes()])
    more = [] if bare else golang.missing([*golang.sidecars(), *tekton.programs()])
    lacking = [f"build {program.name} {program.version}" for program in [*base, *more]]
    if not bare and not tekton.fetched():
        lacking.append("fetch Tekton's module")
    if not lacking:
        return []
    said = NoGo(f"cannot {', '.join(lacking)}")
    return [str(said) if base or bare else f"{said}; `up --bare` does without"]


def pause() -> Image:
    """The image that holds a pod's namespaces."""
    (program,) = (program for program in golang.own() if program.name == "pause")
    entries = [Entry("pause", 0o755, program.path)]
    repository, _, tag = settings.PAUSE.partition(":")
    layer = cached("pause", str(program.path), lambda tar: write_entries(tar, entries))
    return Image(repository, (layer,), tag=tag, entrypoint=("/pause",), user="65535:65535")
