"""A real etcd and kube-apiserver on free ports of this machine: an API without nodes, controllers or the network.

The programs are those of the cluster's tests, built once and kept outside the checkout.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.kube.errors import ApiError
from tests.cluster.machine import debian, golang
from tests.cluster.machine.errors import ClusterError
from tests.cluster.machine.keys import Authority, Pair, kubeconfig
from tests.support.ports import free_ports

START = 120.0
"""Seconds; only a broken server ever reaches it."""
STOP = 30.0


def programs() -> tuple[str, str]:
    """The paths of etcd and kube-apiserver, which is built if it is not there. Raises ClusterError."""
    if debian.ETCD.root is not None:
        etcd = str(debian.ETCD.directory / "etcd")
    elif (found := shutil.which("etcd")) is not None:
        etcd = found
    else:
        raise ClusterError("etcd is missing: run `make cluster-up` once, or install Debian's etcd-server")
    apiserver = next(program for program in golang.kubernetes() if program.name == "kube-apiserver")
    golang.build([apiserver])
    return etcd, str(apiserver.path)


@dataclass(frozen=True)
class Program:
    """How one of them is started, and where it writes what it says."""

    command: Sequence[str]
    log: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; the caller ends it."""
        with self.log.open("ab") as file:
            return subprocess.Popen(self.command, stdout=file, stderr=file)


class ApiServer:
    """The API server, which can be stopped and started again with the same data."""

    def __init__(self, home: Path) -> None:
        etcd, apiserver = programs()
        self.home = home
        self.authority = Authority(home / "keys")
        server = self.authority.server("server", ["127.0.0.1", "localhost"])
        signing = self.authority.signing_key("service-accounts")
        client, peer, self.port = free_ports(3)
        self.url = f"https://127.0.0.1:{self.port}"
        self._etcd = Program(_etcd(etcd, home, client, peer), home / "etcd.log")
        self._apiserver = Program(
            _apiserver(apiserver, self.authority.pair, server, signing, client, self.port), home / "apiserver.log"
        )
        self._running: list[subprocess.Popen[bytes]] = []
        self.admin = self.kubeconfig("admin", "kubernetes-admin", "system:masters")

    def kubeconfig(self, name: str, user: str, *groups: str) -> Path:
        """A kubeconfig of a user by certificate."""
        path = self.home / f"{name}.kubeconfig"
        path.write_bytes(kubeconfig(self.url, self.authority.pair, self.authority.client(name, user, *groups)))
        return path

    def start(self) -> None:
        """Start both and return when the API is ready."""
        self._running = [self._etcd.start(), self._apiserver.start()]
        self._wait()

    def restart(self) -> None:
        """Stop the API server alone, and start it again."""
        _end(self._running.pop())
        self._running.append(self._apiserver.start())
        self._wait()

    def stop(self) -> None:
        """End both."""
        while self._running:
            _end(self._running.pop())

    def _wait(self) -> None:
        kube = Kube(from_kubeconfig(str(self.admin)))
        until = time.monotonic() + START
        try:
            while True:
                try:
                    kube.raw("/readyz")
                    return
                except ApiError as error:
                    ended = [process.args for process in self._running if process.poll() is not None]
                    if ended or time.monotonic() > until:
                        log = self._apiserver.log.read_text(errors="replace")[-3000:]
                        raise AssertionError(f"the API server is not ready: {error}; ended: {ended}; {log}") from None
                    time.sleep(0.1)
        finally:
            kube.close()


@contextmanager
def serving(home: Path) -> Iterator[ApiServer]:
    """An API server with an empty etcd, gone with its data afterwards."""
    server = ApiServer(home)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home / "etcd", ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _etcd(program: str, home: Path, client: int, peer: int) -> list[str]:
    return [
        program,
        f"--data-dir={home / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
    ]


def _apiserver(program: str, authority: Pair, server: Pair, signing: Pair, etcd: int, port: int) -> list[str]:
    return [
        program,
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        f"--tls-cert-file={server.certificate}",
        f"--tls-private-key-file={server.key}",
        f"--client-ca-file={authority.certificate}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={signing.certificate}",
        f"--service-account-signing-key-file={signing.key}",
        "--service-cluster-ip-range=10.250.0.0/24",
        "--authorization-mode=RBAC",
        # Nothing makes the namespaces' default service accounts here.
        "--disable-admission-plugins=ServiceAccount",
        "--endpoint-reconciler-type=none",
        "--profiling=false",
        "--allow-privileged=true",  # the chart's holder
    ]
