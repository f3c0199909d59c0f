"""A holder of one volume that keeps a server running: what `resultsfs mount` and `resultsfs run` start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from resultsfs.namespaces import ended
from tests.support.mount import Mount, mounted
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """A served volume."""
    with mounted(transport="native") as found:
        yield found


def _kill_server(mount: Mount) -> None:
    server = mount.server
    os.kill(server, signal.SIGKILL)
    eventually(lambda: mount.replaced(server))


def test_a_server_that_keeps_dying_is_started_more_slowly(mount: Mount) -> None:
    """Each time another server takes over; the pauses grow, and the log says why."""
    for turn in range(4):
        _kill_server(mount)
        (mount.path / "f").write_text(str(turn))
        assert (mount.path / "f").read_text() == str(turn)
    log = mount.log()
    assert log.count("ended with -9") == 4
    assert log.index("another starts at once") < log.index("another starts in 0.2 s, for this keeps happening")
    assert "another starts in 0.4 s" in log


def test_a_server_that_is_told_to_end_is_replaced(mount: Mount) -> None:
    """Who updates the program may end the server: another starts with what is installed now."""
    server = mount.server
    os.kill(server, signal.SIGTERM)
    (mount.path / "f").write_text("x")
    eventually(lambda: mount.replaced(server))
    assert "ended with 0" in mount.log()


def test_both_end_with_the_mount(mount: Mount) -> None:
    """An unmount by others ends server and holder, which leaves no socket behind."""
    assert mount.process is not None
    server = os.pidfd_open(mount.server)
    try:
        subprocess.run(["umount", mount.path], check=True)
        assert mount.process.wait(60) == 0
        eventually(lambda: ended(server))
    finally:
        os.close(server)
    assert not (mount.spool / "holder.sock").exists()


def test_an_old_holder_leaves_the_socket_of_a_new_one(mount: Mount) -> None:
    """Where another holder listens at the path by now, one that ends does not remove it."""
    assert mount.process is not None
    path = mount.spool / "holder.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as another:
        another.bind(str(path))
        subprocess.run(["umount", mount.path], check=True)
        assert mount.process.wait(60) == 0
        assert path.is_socket()


def test_a_server_that_outlives_its_holder_ends_with_the_mount(mount: Mount) -> None:
    """Without a holder the server serves on, and goes when the mount is taken off: nothing is left running."""
    assert mount.process is not None
    server = os.pidfd_open(mount.server)
    try:
        mount.process.kill()
        mount.process.wait(60)
        mount.process = None
        (mount.path / "report").write_text("on")
        assert (mount.path / "report").read_text() == "on"
        assert not ended(server)
        subprocess.run(["umount", mount.path], check=True)
        eventually(lambda: ended(server))
    finally:
        os.close(server)


def test_a_stuck_server_does_not_keep_the_holder_from_ending(mount: Mount) -> None:
    """SIGTERM to the holder ends a server that does not answer, too."""
    assert mount.process is not None
    os.kill(mount.server, signal.SIGSTOP)
    mount.process.terminate()
    assert mount.process.wait(100) == 0
    mount.process = None
