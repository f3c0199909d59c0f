"""Mounting apart from serving: what clients ask of the holder."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from resultsfs import mountinfo
from resultsfs.holder.channel import connect
from resultsfs.holder.messages import Failed, Mount, Mounted, Unmount, Unmounted
from tests.support.holder import DEADLINE, Stage
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]


def test_one_mounts_another_serves(both: Stage) -> None:
    """The holder mounts, the server serves; both say so, and an unmount leaves nothing but the spool."""
    holder, server = both.processes
    point = both.mount()
    (point / "report").write_text("x" * 10_000)
    assert (point / "report").read_text() == "x" * 10_000
    found = both.listed()["v"]
    assert (found.state, found.server, found.mountpoint) == ("served", server.pid, str(point))
    assert both.unmount() == 1
    assert both.mounted() == [] and both.listed() == {}
    assert (both.directory / "v.spool" / "files" / "report").read_text() == "x" * 10_000
    server.says("served no more")
    assert not [link for link in _links(server.pid) if "v.spool" in link or "/dev/fuse" in link]
    assert not [link for link in _links(holder.pid) if "v.spool" in link or "/dev/fuse" in link]


def _links(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile, as the connection of who asked last
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def test_asking_twice_is_fine(both: Stage) -> None:
    """A mount that is there is answered at once, an unmount of nothing too."""
    point = both.mount()
    both.mount()
    assert len([mount for mount in mountinfo.mounts() if mount.mountpoint == str(point)]) == 1
    assert both.unmount() == 1
    assert both.unmount() == 0
    assert both.ask(Unmount(mountpoint=str(point)), Unmounted).count == 0


def test_a_mount_without_a_server_waits_for_one(stage: Stage) -> None:
    """Asked before there is a server, the answer comes when one is attached and the mount answers."""
    stage.holder()
    client = connect(stage.socket, DEADLINE)
    client.send(Mount(stage.volume()))
    eventually(lambda: stage.states() == {"v": "mounting"} and stage.mounted() == ["v"])
    stage.server()
    answer, _ = client.receive()
    client.close()
    assert answer == Mounted("v")


def test_a_mount_that_nobody_serves_in_time_is_taken_off(stage: Stage) -> None:
    """The client is told why, and nothing stays mounted."""
    stage.holder()
    failed = stage.fails(Mount(stage.volume(), timeout=0.2))
    assert failed.errno == errno.ETIMEDOUT
    assert "0.2 s" in failed.error and "no server is attached" in failed.error
    eventually(lambda: stage.mounted() == [] and stage.listed() == {})


@pytest.mark.parametrize(
    ("settings", "words"),
    [("store: 7s3://", ["7s3://", "store"]), ("no-such-setting: 1", ["no-such-setting"]), ("{", ["not YAML"])],
)
def test_what_a_server_cannot_serve_is_refused(both: Stage, settings: str, words: list[str]) -> None:
    """The server's reason reaches the client, and nothing stays mounted; other volumes are served."""
    failed = both.fails(Mount(both.volume("bad", settings=settings)))
    for word in words:
        assert word in failed.error, failed
    eventually(lambda: both.mounted() == [] and both.listed() == {})
    assert both.mount("good").is_mount()


def test_a_mount_point_must_be_there(both: Stage) -> None:
    """What cannot be mounted is named, and forgotten."""
    volume = both.volume()
    Path(volume.mountpoint).rmdir()
    failed = both.fails(Mount(volume))
    assert failed.errno == errno.ENOENT and volume.mountpoint in failed.error
    assert both.listed() == {}


def test_a_mount_point_is_used_once(both: Stage) -> None:
    """Neither another volume at the mount point nor another place for the volume."""
    first = both.volume()
    both.mount()
    other = both.volume("w")
    stacked = both.fails(Mount(type(first)("w", first.mountpoint, other.spool, other.record)))
    assert stacked.errno == errno.EBUSY and "mounted already" in stacked.error
    moved = both.fails(Mount(type(first)("v", other.mountpoint, first.spool, first.record)))
    assert moved.errno == errno.EEXIST and first.mountpoint in moved.error
    assert both.states() == {"v": "served"}


def test_all_mounts_at_a_place_are_taken_off(both: Stage) -> None:
    """Unmounting goes on while anything of ours is mounted there, held or not; what is not ours stays."""
    point = both.mount()
    subprocess.run(["mount", "--bind", point, point], check=True)
    assert both.ask(Unmount("v", str(point)), Unmounted).count == 2
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    try:
        assert both.ask(Unmount(mountpoint=str(point)), Unmounted).count == 0
        assert both.mounted() == ["v"]
    finally:
        subprocess.run(["umount", point], check=True)


def test_unmounted_by_somebody_else(both: Stage) -> None:
    """What others take off is forgotten by holder and server, and can be mounted again."""
    point = both.mount()
    (point / "report").write_text("kept")
    subprocess.run(["umount", point], check=True)
    eventually(lambda: both.listed() == {})
    assert (both.mount() / "report").read_text() == "kept"


def test_unmounted_while_busy(both: Stage) -> None:
    """A mount in use is taken off at once; its users get an error, not a hang."""
    point = both.mount()
    file = os.open(point / "f", os.O_RDWR | os.O_CREAT)
    os.write(file, b"before")
    assert both.unmount() == 1
    assert both.mounted() == []
    with pytest.raises(OSError) as failed:
        os.fsync(file)
    assert failed.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    with pytest.raises(OSError):
        os.close(file)


def test_aborted_through_the_control_filesystem(both: Stage, tmp_path: Path) -> None:
    """An aborted mount is known as dead: it is not mounted again before it is unmounted, which works."""
    point = both.mount()
    device = os.minor(os.stat(point).st_dev)
    subprocess.run(["mount", "-t", "fusectl", "none", tmp_path], check=True)
    try:
        (tmp_path / str(device) / "abort").write_text("1")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    eventually(lambda: both.states() == {"v": "dead"})
    with pytest.raises(OSError):
        os.listdir(point)
    assert "is dead: unmount it first" in both.fails(Mount(both.volume())).error
    assert both.unmount() == 1
    assert os.listdir(both.mount()) == []


def test_a_hundred_volumes(both: Stage) -> None:
    """A hundred volumes are mounted at once and served by one process, in at most 0.2 MB each and no threads of their own."""
    server = both.processes[1]
    point = both.mount("first")
    (point / "report").write_text("x")
    eventually(lambda: _threads(server.pid) <= 8)
    threads, before = _threads(server.pid), _memory(server.pid)
    clients = []
    for number in range(100):
        client = connect(both.socket, DEADLINE)
        client.send(Mount(both.volume(f"v{number}")))
        clients.append(client)
    for number, client in enumerate(clients):
        answer, _ = client.receive()
        assert answer == Mounted(f"v{number}")
        client.close()
    each = (_memory(server.pid) - before) / 100
    assert each <= 200, f"{each:.0f} kB a volume"
    assert _threads(server.pid) <= threads + 4
    script = 'for at in "$@"; do echo "$at" > "$at/report" && cat "$at/report" || exit 1; done'
    points = [str(both.directory / f"v{number}") for number in range(100)]
    done = subprocess.run(["/bin/sh", "-c", script, "sh", *points], capture_output=True, check=True, timeout=DEADLINE)
    assert done.stdout.decode().split() == points
    for number in range(100):
        assert both.unmount(f"v{number}") == 1
    assert both.states() == {"first": "served"} and both.mounted() == ["first"]


def _memory(pid: int) -> int:
    """Anonymous memory in kB."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_a_client_that_leaves_is_no_matter(stage: Stage) -> None:
    """A client may go while it waits: the volume is mounted all the same."""
    stage.holder()
    client = connect(stage.socket, DEADLINE)
    client.send(Mount(stage.volume()))
    client.close()
    stage.server()
    eventually(lambda: stage.states() == {"v": "served"})
    assert isinstance(stage.ask(Mount(stage.volume()), Mounted), Mounted)
    assert not isinstance(stage.ask(Unmount("v"), Unmounted), Failed)
