"""How many entries a volume has: `volume-file-limit`, and the inodes of the node's disk."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resultsfs.disk import NodeDisk
from resultsfs.errors import NodeDiskFull
from resultsfs.settings import Settings
from resultsfs.syscalls import EXCHANGE, NOREPLACE, renameat2
from tests.support.mount import Mount, mounted
from tests.support.users import needs_root

LIMIT = 20


@pytest.fixture
def few(transport: str) -> Iterator[Mount]:
    """A volume that takes 20 entries."""
    with mounted(transport=transport, settings={"volume-file-limit": LIMIT}) as found:
        yield found


def _refused(call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == errno.ENOSPC, caught.value


def room(mount: Mount, count: int) -> None:
    """Exactly `count` entries can be made, and not one more; they are removed again."""
    made = [mount.path / f"room-{number}" for number in range(count + 1)]
    for directory in made[:-1]:
        directory.mkdir()
    _refused(made[-1].mkdir)
    for directory in made[:-1]:
        directory.rmdir()


def test_a_volume_has_so_many_entries(few: Mount) -> None:
    """Whatever is made counts; beyond `volume-file-limit` making is ENOSPC, an Event names it, and all else goes on."""
    (few.path / "d").mkdir()
    (few.path / "d" / "report").write_bytes(b"content")
    os.link(few.path / "d" / "report", few.path / "report")
    os.symlink("nowhere", few.path / "link")
    os.mkfifo(few.path / "fifo")
    os.mknod(few.path / "node")
    room(few, LIMIT - 6)
    for number in range(LIMIT - 6):
        (few.path / "d" / str(number)).touch()
    _refused((few.path / "more").touch)
    _refused((few.path / "more").mkdir)
    _refused(lambda: os.mknod(few.path / "more"))
    _refused(lambda: os.symlink("nowhere", few.path / "more"))
    _refused(lambda: os.link(few.path / "node", few.path / "more"))
    assert not os.path.lexists(few.path / "more")
    found = [event["message"] for event in few.events() if event["reason"] == "VolumeFull"]
    assert len(found) == 1 and "volume-file-limit" in found[0]
    (few.path / "report").write_bytes(b"changed")
    os.rename(few.path / "node", few.path / "d" / "renamed")
    assert few.collect("report").stdout == b"changed"


def test_what_goes_makes_room(few: Mount) -> None:
    """Names that are removed, or renamed over, count no more; those that are only renamed do."""
    for name in ("a", "b", "c", "open"):
        (few.path / name).touch()
    for name in ("full", "empty"):
        (few.path / name).mkdir()
    os.link(few.path / "a", few.path / "again")
    room(few, LIMIT - 7)
    os.rename(few.path / "a", few.path / "again")  # two names of one file: nothing happens
    room(few, LIMIT - 7)
    os.rename(few.path / "a", few.path / "full" / "a")
    room(few, LIMIT - 7)
    os.rename(few.path / "b", few.path / "c")
    os.rename(few.path / "full", few.path / "empty")
    room(few, LIMIT - 5)
    with open(few.path / "open", "wb"), open(few.path / "c", "wb"):
        os.unlink(few.path / "open")
        os.rename(few.path / "again", few.path / "c")
        room(few, LIMIT - 3)
    room(few, LIMIT - 3)
    os.unlink(few.path / "c")
    os.unlink(few.path / "empty" / "a")
    os.rmdir(few.path / "empty")
    room(few, LIMIT)


@needs_root
def test_special_renames_change_nothing() -> None:
    """Exchanged and moved names count as before, and what fails does not count. (libfuse 2 knows no such renames.)"""
    with mounted(transport="native", settings={"volume-file-limit": LIMIT}) as few:
        for name in ("a", "b"):
            (few.path / name).touch()
        root = os.open(few.path, os.O_RDONLY)
        try:
            renameat2(root, "a", root, "b", EXCHANGE)
            renameat2(root, "a", root, "c", NOREPLACE)
            with pytest.raises(FileExistsError):
                renameat2(root, "c", root, "b", NOREPLACE)
        finally:
            os.close(root)
        with pytest.raises(FileExistsError):
            (few.path / "b").mkdir()
        with pytest.raises(FileNotFoundError):
            os.unlink(few.path / "a")
        room(few, LIMIT - 2)


def test_entries_are_counted_after_a_restart(few: Mount) -> None:
    """A new daemon counts what lies in the spool, at any depth and of any kind; not what was unlinked while open."""
    few.path.joinpath(*["d"] * 5).mkdir(parents=True)
    for name in ("file", "gone"):
        few.path.joinpath(*["d"] * 5, name).touch()
    os.symlink("nowhere", few.path / "link")
    os.mkfifo(few.path / "fifo")
    with open(few.path.joinpath(*["d"] * 5, "gone"), "rb"):
        os.unlink(few.path.joinpath(*["d"] * 5, "gone"))
    few.restart()
    room(few, LIMIT - 8)


@needs_root
@pytest.mark.parametrize("inodes", [100, 0], ids=["100", "unlimited"])
def test_inodes_of_the_nodes_disk(tmp_path: Path, inodes: int) -> None:
    """`node-disk-reserve` keeps inodes as it keeps bytes, and more are made when there are more; a disk that says that
    it has none has no limit."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=1M,nr_inodes={inodes}", "none", tmp_path], check=True)
    try:
        disk = NodeDisk(str(tmp_path), lambda: Settings(node_disk_reserve=50), lambda count: 0)

        def make(count: int) -> None:
            for _ in range(count):
                disk.may_make(0)
                (tmp_path / str(len(os.listdir(tmp_path)))).touch()

        if inodes == 0:
            make(150)
            return
        found = os.statvfs(tmp_path)
        assert found.f_files == 100
        make(found.f_favail - 50)
        with pytest.raises(NodeDiskFull, match=r"inodes.*node-disk-reserve \(50%\)"):
            disk.may_make(0)
        for number in range(3):
            (tmp_path / str(number)).unlink()
        for _ in range(3):
            disk.may_make(0)
            os.mkfifo(tmp_path / os.urandom(8).hex())
        with pytest.raises(NodeDiskFull):
            disk.may_make(0)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
