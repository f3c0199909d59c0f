"""The machine's parts that need no cluster."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.cluster.machine import golang, lifecycle, network, places
from tests.cluster.machine.errors import ClusterError
from tests.cluster.machine.keys import Authority, kubeconfig
from tests.cluster.machine.locking import locked
from tests.cluster.machine.running import run
from tests.support import tekton


def test_what_a_machine_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, Go and apt, each is named with what cannot be done and the way out, and nothing is started."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterError) as caught:
        lifecycle.Cluster(places.places()).up()
    said = str(caught.value)
    assert "nothing was started" in said
    assert "not root" in said and "python -m tests.cluster build" in said
    assert "no Go on PATH: cannot build coredns" in said and "kubelet v1.34" in said
    assert "no apt-get: cannot get" in said and "etcd-server" in said and "iptables" in said
    assert not (tmp_path / "state").exists()


def test_go_is_not_needed_for_what_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Go, Kubernetes that is built is enough for `--bare`; the rest is named until it is there too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))

    def lacking(*, bare: bool) -> list[str]:
        return [line for line in lifecycle.missing(bare=bare) if line.startswith("no Go on PATH")]

    _pretend_built([*golang.own(), *golang.kubernetes()])
    assert lacking(bare=True) == []
    (line,) = lacking(bare=False)
    assert "build registrar" in line and "build webhook v1" in line and "fetch Tekton's module" in line
    assert "`up --bare`" in line and "coredns" not in line
    _pretend_built([*golang.sidecars(), *tekton.programs()])
    (line,) = lacking(bare=False)
    assert line.startswith("no Go on PATH: cannot fetch Tekton's module. ")


def _pretend_built(programs: list[golang.Program]) -> None:
    for program in programs:
        program.path.parent.mkdir(parents=True)
        program.path.touch()


@pytest.mark.go
@pytest.mark.timeout(900)
def test_tektons_module_is_found_again_without_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it was fetched, Tekton's module is found without Go; before, and when it was removed, Go is asked for."""
    where = tekton.source.__wrapped__  # as in another process
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = where()
    assert (first.directory / "config").is_dir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert where() == first
    assert tekton.fetched()
    (link,) = (tmp_path / "cache" / "resultsfs" / "go").iterdir()
    link.unlink()
    link.symlink_to(tmp_path / "removed")
    with pytest.raises(tekton.NoGo, match=r"Tekton's module cannot be fetched\. Install Go"):
        where()


def test_up_says_that_there_is_no_go(tmp_path: Path) -> None:
    """Without Go, `up` says so in words, and starts nothing."""
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster", "--instance", str(tmp_path), "up"],
        capture_output=True, text=True, timeout=300, check=False, cwd=places.CHECKOUT,
        env={**environment, "HOME": str(tmp_path), "PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "cluster: nothing was started:\n" in done.stderr and "no Go on PATH: cannot build" in done.stderr
    assert "Tekton's module" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.go
@pytest.mark.timeout(900)
def test_a_build_that_was_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program is built over what a killed build left, is whole or not there, and is not built twice."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (pause,) = (program for program in golang.own() if program.name == "pause")
    left = pause.path.parent.parent / f".{pause.path.parent.name}-killed"
    (left / "made").mkdir(parents=True)
    (left / "made" / "pause").write_text("half")
    golang.build([pause])
    assert not left.exists()
    assert golang.missing([pause]) == []
    stamp = pause.path.stat().st_mtime_ns
    golang.build([pause])
    assert pause.path.stat().st_mtime_ns == stamp


@pytest.mark.go
@pytest.mark.timeout(900)
def test_a_build_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Go says of a program that does not compile is in the error, and nothing is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "go.mod").write_text("module broken\n\ngo 1.24.0\n")
    (tmp_path / "main.go").write_text("package main\n\nfunc main() { undefinedThing() }\n")
    broken = golang.Program("broken", tmp_path, ".", "v1")
    with pytest.raises(ClusterError, match="undefined: undefinedThing"):
        golang.build([broken])
    assert not broken.path.parent.exists()
    assert [path.suffix for path in broken.path.parent.parent.iterdir()] == [".lock"]


def test_a_changed_module_is_another_program(tmp_path: Path) -> None:
    """The path of a built program depends on its module's content and its flags, on nothing else."""
    (tmp_path / "go.mod").write_text("module one\n")
    program = golang.Program("p", tmp_path, ".", "v1")
    first = program.path
    assert golang.Program("p", tmp_path, ".", "v1").path == first
    assert golang.Program("p", tmp_path, ".", "v1", ldflags="-s").path != first
    (tmp_path / "go.mod").write_text("module two\n")
    assert program.path != first


def test_all_of_kubernetes_has_one_version() -> None:
    """The staging modules are replaced by those of the same Kubernetes, which serves CoreDNS' build too."""
    version = golang.kubernetes()[0].version
    for name in ("kubernetes", "coredns"):
        done = run(["sed", "-n", r"s/^\tk8s.io.* => k8s.io.* //p", golang.MODULES / name / "go.mod"])
        assert set(done.split()) == {version.replace("v1.", "v0.")}


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    """The second process to want a lock says that it waits, and gets it when the first lets go."""
    told = threading.Event()
    script = (
        "import sys; from pathlib import Path; from tests.cluster.machine.locking import locked\n"
        "with locked(Path(sys.argv[1]), lambda: print('waits', flush=True)): print('has it', flush=True)\n"
    )
    with locked(tmp_path / "lock", told.set):
        command = [sys.executable, "-c", script, str(tmp_path / "lock")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=places.CHECKOUT)
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
    with process:
        assert process.communicate(timeout=60)[0] == "has it\n"
    assert process.returncode == 0
    assert not told.is_set()


def test_addresses_of_a_cluster_do_not_overlap() -> None:
    """Pods, services and the link lie apart in a cluster's /16, and the API's address is the services' first."""
    found = network.Network(IPv4Network("10.200.0.0/16"))
    link = IPv4Network("10.200.255.252/30")
    assert not found.pods.overlaps(found.services)
    assert not link.overlaps(found.pods) and not link.overlaps(found.services)
    assert {found.host, found.node} == {str(address) for address in link.hosts()}
    assert found.api_service == "10.200.128.1"


def test_two_checkouts_have_different_places() -> None:
    """Names that the host sees differ between clusters, and fit into what the kernel allows."""
    first, second = places.places(), places.places("other")
    assert len({first.home, second.home}) == len({first.name, second.name}) == len({first.link, second.link}) == 2
    assert len(first.link) <= 15


def test_certificates_are_believed_by_their_own(tmp_path: Path) -> None:
    """A server and a client with certificates of one authority believe each other; a kubeconfig holds them."""
    authority = Authority(tmp_path / "keys")
    server = authority.server("server", ["localhost", "127.0.0.1"])
    client = authority.client("client", "somebody", "system:masters")
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.pair.certificate))
    accepting.verify_mode = ssl.CERT_REQUIRED
    accepting.load_cert_chain(server.certificate, server.key)
    asking = ssl.create_default_context(cafile=str(authority.pair.certificate))
    asking.load_cert_chain(client.certificate, client.key)
    near, far = socket.socketpair()
    subjects = []

    def accept() -> None:
        with accepting.wrap_socket(far, server_side=True) as wrapped:
            subjects.append(wrapped.getpeercert())
            wrapped.sendall(b"x")

    thread = threading.Thread(target=accept)
    thread.start()
    with asking.wrap_socket(near, server_hostname="localhost") as wrapped:
        assert wrapped.recv(1) == b"x"
    thread.join()
    assert subjects[0] is not None
    assert ((("commonName", "somebody"),)) in subjects[0]["subject"]
    written = json.loads(kubeconfig("https://127.0.0.1:1", authority.pair, client))
    assert written["users"][0]["user"]["client-key-data"]
    assert (tmp_path / "keys" / "ca.key").stat().st_mode & 0o077 == 0
