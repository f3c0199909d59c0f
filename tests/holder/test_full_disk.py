"""The disk of the spools is full, and then a server dies: what the next one needs is there already."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from resultsfs.collector import nobody
from resultsfs.filesystem import Caller
from resultsfs.service import Service
from resultsfs.settings import Settings
from tests.support.disk import fill, small_disk
from tests.support.mount import Mount, mounted, record
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]
BIG = os.urandom(300_000)
MANY = ("report", *(f"result-{number}" for number in range(60)))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """A served volume on a small disk."""
    with (
        small_disk(tmp_path / "disk", 4 << 20) as disk,
        mounted(transport="native", spool=disk / "spool", results=MANY) as found,
    ):
        yield found


def _die(mount: Mount) -> None:
    """SIGKILL the server; returns when the next one serves. Nothing here waits for the mount, where it might for ever."""
    server, before = mount.server, mount.log().count("takes over volume")
    os.kill(server, signal.SIGKILL)
    eventually(lambda: mount.replaced(server) and mount.log().count("takes over volume") > before)


def test_a_server_that_dies_on_a_full_disk_is_followed(mount: Mount) -> None:
    """What was noted stays true: names, content by reference, an open file; and `rm` makes room."""
    (mount.path / "report").write_bytes(BIG)
    reference = mount.path / ".ref" / mount.collect("report").stdout.decode().rpartition("/")[2]
    assert reference.read_bytes() == BIG
    with open(mount.path / "kept", "w+b", buffering=0) as kept:
        kept.write(b"before")
        fill(mount.path / "big")
        for _ in range(2):
            _die(mount)
            with pytest.raises(FileNotFoundError):
                os.stat(mount.path / "nosuch")
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                (mount.path / "more").write_bytes(bytes(100_000))
            assert os.pread(kept.fileno(), 10, 0) == b"before"
            assert reference.read_bytes() == BIG
        assert "nodes.jsonl is not made shorter" in mount.log()
        os.unlink(mount.path / "big")
        eventually(lambda: os.statvfs(mount.path).f_bavail > 400)
        (mount.path / "more").write_bytes(BIG)
        assert (mount.path / "more").read_bytes() == BIG


def test_who_reads_on_a_full_disk_is_served(mount: Mount) -> None:
    """A collector reads its results though the journal takes no more of them, and the journal has no half line."""
    for name in MANY:
        (mount.path / name).write_text(name)
    fill(mount.path / "big")
    assert mount.collect(*MANY).stdout.decode() == "".join(MANY)
    assert "would be done again after this server" in mount.log()
    _die(mount)
    assert (mount.path / "report").read_text() == "report"
    os.unlink(mount.path / "big")
    (mount.path / "report").write_text("new")
    assert mount.collect("report").stdout == b"new"
    lines = (mount.spool / "journal.jsonl").read_bytes().splitlines()
    assert 0 < len([json.loads(line) for line in lines]) < len(MANY)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("broken", ["journal.jsonl", "record.json", "events.jsonl", "hidden"])
def test_a_service_that_cannot_be_made_leaves_nothing_open(tmp_path: Path, broken: str) -> None:
    """Each try of a spool that fails gives all descriptors back."""
    if broken == "hidden":
        (tmp_path / broken).write_text("in the way")
    else:
        (tmp_path / broken).mkdir()
    before = _descriptors()
    for _ in range(3):
        with pytest.raises(OSError, match=broken):
            Service(record(), tmp_path, Settings(store=f"file://{tmp_path}/store"), nobody, lambda: Caller(0, 0, 1))
    assert _descriptors() == before
