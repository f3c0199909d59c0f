"""A cluster whose records are damaged, or whose supervisor is gone: told in words, and removed without what was built."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.machine import network, node, places, records
from tests.cluster.machine.errors import ClusterError
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import Places
from tests.cluster.machine.report import report

DAMAGED = [b"", b'{"pid": 1', b"\xff\xfe\xfd", b"[]", b"null", b"{}"]
needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="`ip` is not installed")


@pytest.fixture
def nobodys() -> Iterator[Places]:
    """The places of a cluster that nobody has; the path is short, for the socket."""
    with tempfile.TemporaryDirectory(prefix="resultsfs-") as directory:
        yield Places(home=Path(directory) / "resultsfs" / "home", name=places.places(directory).name)


def _damage(found: Places, content: bytes) -> None:
    found.home.mkdir(parents=True)
    found.node_record.write_bytes(content)
    found.network_record.write_bytes(content)


def test_a_record_is_whole_or_as_it_was(tmp_path: Path) -> None:
    """What is written is read again; where it cannot be written, the older record stays, and nothing beside it."""
    path = tmp_path / "record.json"
    assert records.read(path) is None
    records.write(path, {"pid": 1})
    with pytest.raises(TypeError):
        records.write(path, {"pid": object()})
    assert records.read(path, "pid") == {"pid": 1}
    records.write(path, {"pid": 2})
    assert records.read(path, "pid") == {"pid": 2}
    assert os.listdir(tmp_path) == [path.name]


@needs_ip
@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_is_none(
    nobodys: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """A cluster with damaged records has no node and no addresses; `status` says what is left, `down` removes it, also
    where neither Go nor anything that was built is there."""
    ip = shutil.which("ip")
    assert ip is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ip").symlink_to(ip)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    _damage(nobodys, content)
    cluster = Cluster(nobodys)
    assert cluster.node.pid is None
    assert network.read(nobodys) is None
    told = report(cluster).text()
    assert f"The cluster is not whole; left of it: directories {nobodys.home}." in told
    assert "`make cluster-up`" in told and "`make cluster-down`" in told
    cluster.down()
    assert not nobodys.home.exists()
    cluster.down()


def test_what_down_lacks_is_named(nobodys: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root or `ip`, `down` says so and removes nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    _damage(nobodys, b"")
    for euid, lacking in ((1000, "nothing was removed: not root"), (0, "nothing was removed: `ip` is not installed")):
        monkeypatch.setattr(os, "geteuid", lambda euid=euid: euid)
        with pytest.raises(ClusterError, match=lacking):
            Cluster(nobodys).down()
    assert nobodys.home.exists()


@pytest.mark.parametrize("socket_there", [False, True])
def test_a_supervisor_that_is_gone_is_named(nobodys: Places, socket_there: bool) -> None:
    """What asks a supervisor that has ended, with its socket's file or without, learns where it should be, and what
    mends it."""
    nobodys.home.mkdir(parents=True)
    if socket_there:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(nobodys.socket))
    with pytest.raises(ClusterError, match=f"does not answer at {nobodys.socket} .*: run `make cluster-up`"):
        node.Node(nobodys).signal("etcd", 15)


@pytest.mark.parametrize("answer", [b"", json.dumps({"services": {}}).encode()[:5]])
def test_a_supervisor_that_ends_meanwhile_is_named(nobodys: Places, answer: bytes) -> None:
    """A supervisor that ends before its answer is whole is as one that does not answer."""
    nobodys.home.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(nobodys.socket))
        listener.listen()

        def end() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer)

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(ClusterError, match="does not answer"):
            node.Node(nobodys).services()
        thread.join()
