"""A server that dies with a request in hand: the next one does it, and once."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from resultsfs import syscalls
from resultsfs.kernel.protocol import Opcode
from tests.support.takeover import TakenOver, taken_over
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]


def _appends(path: Path) -> None:
    with open(path / "there", "ab", buffering=0) as file:
        file.write(b"once")


def _exchanges(path: Path) -> None:
    directory = os.open(path, os.O_PATH)
    try:
        syscalls.renameat2(directory, "there", directory, "other", syscalls.EXCHANGE)
    finally:
        os.close(directory)


def _does_not_replace(path: Path) -> None:
    directory = os.open(path, os.O_PATH)
    try:
        syscalls.renameat2(directory, "there", directory, "new", syscalls.NOREPLACE)
    finally:
        os.close(directory)


def _copies(path: Path) -> None:
    with open(path / "there", "rb") as source, open(path / "new", "wb") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 5, 0, 0)


def _reserves(path: Path) -> None:
    with open(path / "there", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 100)


IN_HAND: dict[str, tuple[Opcode, Callable[[Path], object]]] = {
    "mkdir": (Opcode.MKDIR, lambda path: os.mkdir(path / "new", 0o750)),
    "create": (
        Opcode.CREATE,
        lambda path: os.close(os.open(path / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400)),
    ),
    "open": (Opcode.OPEN, lambda path: os.close(os.open(path / "there", os.O_WRONLY | os.O_TRUNC))),
    "symlink": (Opcode.SYMLINK, lambda path: os.symlink("target", path / "new")),
    "link": (Opcode.LINK, lambda path: os.link(path / "there", path / "new")),
    "fifo": (Opcode.MKNOD, lambda path: os.mkfifo(path / "new")),
    "unlink": (Opcode.UNLINK, lambda path: os.unlink(path / "there")),
    "rmdir": (Opcode.RMDIR, lambda path: os.rmdir(path / "directory")),
    "rename": (Opcode.RENAME, lambda path: os.rename(path / "there", path / "new")),
    "rename over": (Opcode.RENAME, lambda path: os.rename(path / "there", path / "other")),
    "exchange": (Opcode.RENAME2, _exchanges),
    "no replace": (Opcode.RENAME2, _does_not_replace),
    "append": (Opcode.WRITE, _appends),
    "chmod": (Opcode.SETATTR, lambda path: os.chmod(path / "there", 0o604)),
    "truncate": (Opcode.SETATTR, lambda path: os.truncate(path / "there", 3)),
    "set attribute": (Opcode.SETXATTR, lambda path: os.setxattr(path / "there", "user.a", b"v", os.XATTR_CREATE)),
    "remove attribute": (Opcode.REMOVEXATTR, lambda path: os.removexattr(path / "there", "user.b")),
    "copy": (Opcode.COPY_FILE_RANGE, _copies),
    "reserve": (Opcode.FALLOCATE, _reserves),
    "list": (Opcode.READDIRPLUS, os.listdir),
    "close": (Opcode.RELEASE, lambda path: (path / "there").read_bytes()),
}


def _picture(path: Path) -> object:
    """All that a step can see of a tree."""
    found = {}
    for name in sorted(os.listdir(path)):
        here = path / name
        status = here.lstat()
        content = here.read_bytes() if stat.S_ISREG(status.st_mode) else None
        attributes = (
            {key: os.getxattr(here, key) for key in os.listxattr(here, follow_symlinks=False)}
            if content is not None
            else {}
        )
        found[name] = (status.st_mode, status.st_uid, status.st_nlink, status.st_size, content, attributes)
    return found


def _furnish(path: Path) -> None:
    (path / "there").write_bytes(b"content")
    (path / "other").write_bytes(b"other")
    (path / "directory").mkdir()
    os.setxattr(path / "there", "user.b", b"v")


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_in_hand_is_done_once(when: str) -> None:
    """Each request that changes something is done exactly once, with the disk's outcome, whether the server was killed
    before it was carried out, or after that and before the answer."""
    with taken_over(way="plain") as mount:
        for name, (opcode, act) in IN_HAND.items():
            here, disk = mount.path / name, mount.outside / name
            for place in (here, disk):
                place.mkdir()
                _furnish(place)
            act(disk)
            with mount.dying(opcode, when):
                act(here)
            assert _picture(here) == _picture(disk), name
            mount.succeed()
            assert _picture(here) == _picture(disk), name
        eventually(lambda: mount.handles() == 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_open_files_that_go_while_the_server_dies(plain: TakenOver, when: str) -> None:
    """A file that is open is unlinked, or replaced, in that moment: its handle stays, and nothing is left of it."""
    for act in (os.unlink, lambda path: os.rename(plain.path / "other", path)):
        (plain.path / "there").write_bytes(b"content")
        (plain.path / "other").write_bytes(b"other")
        with open(plain.path / "there", "r+b", buffering=0) as file:
            with plain.dying(Opcode.UNLINK if act is os.unlink else Opcode.RENAME, when):
                act(plain.path / "there")
            file.write(b"C")
            assert os.pread(file.fileno(), 10, 0) == b"Content"
            assert os.fstat(file.fileno()).st_nlink == 0
        eventually(lambda: os.listdir(plain.spool / "hidden") == [])
        assert act is not os.unlink or not (plain.path / "there").exists()


def test_an_opener_that_is_killed_too_leaves_nothing(plain: TakenOver) -> None:
    """A file that was opened for somebody who is killed before the next server answers does not stay open for ever."""
    (plain.path / "f").write_bytes(b"x")
    with subprocess.Popen(["cat", str(plain.path / "f")], stdout=subprocess.DEVNULL) as reader:
        reader.wait()
    (plain.directory / "die").write_text(f"{int(Opcode.OPEN)} after")
    with subprocess.Popen(["cat", str(plain.path / "f")], stdout=subprocess.DEVNULL) as reader:
        assert plain.told("died", "ended") == "ended -9"
        reader.kill()
        plain.start()
        reader.wait(100)
    eventually(lambda: plain.handles() == 0)


def test_a_client_can_be_killed_while_there_is_no_server(plain: TakenOver) -> None:
    """Who is killed while nobody serves is gone when the next server is there."""
    (plain.path / "f").write_bytes(b"x")
    plain.kill()
    with subprocess.Popen(["touch", str(plain.path / "new")]) as client:
        client.kill()
        plain.start()
        assert client.wait(100) == -9
    assert (plain.path / "f").read_bytes() == b"x"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_server_that_dies_at_the_very_beginning(when: str) -> None:
    """A server that is killed over INIT, answered or not, is followed by one that serves."""
    with taken_over(dies=f"{int(Opcode.INIT)} {when}") as mount:
        (mount.path / "f").write_bytes(b"x")
        mount.succeed()
        assert (mount.path / "f").read_bytes() == b"x"


@pytest.mark.parametrize("when", ["before", "after"])
def test_entries_are_counted_once(when: str) -> None:
    """Whatever the server dies at, the next counts what is there: the last entry of `volume-file-limit` is made, and the
    one after it is not."""
    with taken_over(settings={"volume-file-limit": 16}) as mount:
        for number in range(13):
            (mount.path / str(number)).touch()
        with mount.dying(Opcode.UNLINK, when):
            os.unlink(mount.path / "0")
        with mount.dying(Opcode.RENAME, when):
            os.rename(mount.path / "1", mount.path / "2")
        with mount.dying(Opcode.CREATE, when):
            (mount.path / "1").touch()
        for number in range(13, 16):
            (mount.path / str(number)).touch()
        with mount.dying(Opcode.MKDIR, when):
            (mount.path / "last").mkdir()
        with pytest.raises(OSError) as caught:
            (mount.path / "more").mkdir()
        assert caught.value.errno == errno.ENOSPC
        assert len(os.listdir(mount.path)) == 16
