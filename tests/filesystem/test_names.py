"""Names: directories, renames, links, listing, on the disk and on the mount."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mount import Mount


def _fails(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == code, caught.value


def test_make_and_remove_directories(place: Path) -> None:
    """mkdir and rmdir, with the errors for what is there, what is full and what is no directory."""
    os.mkdir(place / "d", 0o750)
    (place / "d" / "f").touch()
    assert stat.S_IMODE((place / "d").stat().st_mode) == 0o750
    assert place.stat().st_nlink == 3
    _fails(errno.EEXIST, lambda: os.mkdir(place / "d"))
    _fails(errno.ENOTEMPTY, lambda: os.rmdir(place / "d"))
    _fails(errno.ENOTDIR, lambda: os.rmdir(place / "d" / "f"))
    _fails(errno.EISDIR, lambda: os.unlink(place / "d"))
    (place / "d" / "f").unlink()
    os.rmdir(place / "d")
    _fails(errno.ENOENT, lambda: os.rmdir(place / "d"))
    assert place.stat().st_nlink == 2


def test_rename_moves_and_replaces(place: Path) -> None:
    """rename keeps the inode, replaces a file whole, and moves between directories."""
    (place / "a").write_bytes(b"new")
    (place / "b").write_bytes(b"old")
    (place / "d").mkdir()
    inode = (place / "a").stat().st_ino
    os.rename(place / "a", place / "b")
    os.rename(place / "b", place / "d" / "c")
    assert (place / "d" / "c").stat().st_ino == inode
    assert (place / "d" / "c").read_bytes() == b"new"
    assert os.listdir(place) == ["d"]


def test_rename_of_directories(place: Path) -> None:
    """A directory takes its content along, replaces an empty one only, and never goes into itself."""
    (place / "full" / "inner").mkdir(parents=True)
    (place / "empty").mkdir()
    (place / "file").touch()
    _fails(errno.ENOTEMPTY, lambda: os.rename(place / "empty", place / "full"))
    _fails(errno.EINVAL, lambda: os.rename(place / "full", place / "full" / "inner" / "x"))
    _fails(errno.ENOTDIR, lambda: os.rename(place / "full", place / "file"))
    _fails(errno.EISDIR, lambda: os.rename(place / "file", place / "full"))
    os.rename(place / "full", place / "empty")
    assert (place / "empty" / "inner").is_dir()


def test_rename_onto_another_name_of_the_same_file(place: Path) -> None:
    """Renaming onto a second name of the same file does nothing, as POSIX asks."""
    (place / "a").write_bytes(b"x")
    os.link(place / "a", place / "b")
    os.rename(place / "a", place / "b")
    assert sorted(os.listdir(place)) == ["a", "b"]
    assert (place / "a").stat().st_nlink == 2


def test_open_file_follows_its_rename(place: Path) -> None:
    """A handle goes on writing to the file after it is renamed, and after its directory is."""
    (place / "d").mkdir()
    with open(place / "d" / "f", "wb", buffering=0) as handle:
        handle.write(b"1")
        os.rename(place / "d" / "f", place / "d" / "g")
        handle.write(b"2")
        os.rename(place / "d", place / "e")
        handle.write(b"3")
        assert os.fstat(handle.fileno()).st_size == 3
    assert (place / "e" / "g").read_bytes() == b"123"


def test_replacing_an_open_file_leaves_the_old_one_readable(place: Path) -> None:
    """Who has the replaced file open goes on reading the old content; the name shows the new one."""
    (place / "f").write_bytes(b"old")
    (place / "n").write_bytes(b"newer")
    with open(place / "f", "r+b", buffering=0) as handle:
        os.rename(place / "n", place / "f")
        assert handle.read() == b"old"
        handle.write(b"+")
        found = os.fstat(handle.fileno())
        assert (found.st_nlink, found.st_size) == (0, 4)
        assert (place / "f").read_bytes() == b"newer"
        assert os.listdir(place) == ["f"]


def test_unlinked_open_file_lives_until_closed(place: Path) -> None:
    """An unlinked open file is read, written and truncated; it has no link, no entry, and its name is free."""
    with open(place / "f", "w+b", buffering=0) as handle:
        handle.write(b"gone")
        os.unlink(place / "f")
        assert os.listdir(place) == []
        found = os.fstat(handle.fileno())
        assert (found.st_nlink, found.st_size) == (0, 4)
        (place / "f").write_bytes(b"another")
        handle.write(b"!")
        assert os.pread(handle.fileno(), 10, 0) == b"gone!"
        os.ftruncate(handle.fileno(), 2)
        os.fchmod(handle.fileno(), 0o600)
        assert os.fstat(handle.fileno()).st_size == 2
    assert (place / "f").read_bytes() == b"another"


def test_directory_of_an_unlinked_open_file_can_go(place: Path) -> None:
    """The directory of an unlinked open file can be removed, and the handle goes on reading and writing."""
    (place / "d").mkdir()
    with open(place / "d" / "f", "w+b", buffering=0) as handle:
        handle.write(b"content")
        os.unlink(place / "d" / "f")
        os.rmdir(place / "d")
        handle.write(b"!")
        assert os.pread(handle.fileno(), 100, 0) == b"content!"
        os.ftruncate(handle.fileno(), 3)
        assert os.pread(handle.fileno(), 100, 0) == b"con"
    assert os.listdir(place) == []


def test_another_name_of_an_unlinked_open_file(mount: Mount) -> None:
    """A file that lost a name while it was open has its other ones, though a new daemon has not seen these before."""
    (mount.path / "a").write_bytes(b"content")
    os.link(mount.path / "a", mount.path / "b")
    mount.restart()
    with open(mount.path / "a", "rb") as file:
        os.unlink(mount.path / "a")
        os.link(mount.path / "b", mount.path / "c")
        assert file.read() == b"content"
    os.unlink(mount.path / "b")
    assert (mount.path / "c").read_bytes() == b"content"


def test_nothing_is_left_of_unlinked_open_files(mount: Mount) -> None:
    """Once closed, unlinked files are gone from the spool's disk, also when their directory went first."""
    (mount.path / "d").mkdir()
    with open(mount.path / "a", "wb") as one, open(mount.path / "d" / "b", "wb") as other:
        one.write(b"x")
        other.write(b"x")
        os.unlink(mount.path / "a")
        os.unlink(mount.path / "d" / "b")
        os.rmdir(mount.path / "d")
        assert len(os.listdir(mount.spool / "hidden")) == 2
    mount.stop()  # the kernel tells of the last close in its own time, but before this
    assert os.listdir(mount.spool / "hidden") == []
    assert os.listdir(mount.spool / "files") == []


def test_hard_links_are_one_file(place: Path) -> None:
    """Both names show size, mode and link count of one file at once, whichever it is changed through."""
    (place / "a").write_bytes(b"12345")
    os.link(place / "a", place / "b")
    assert (place / "a").stat().st_ino == (place / "b").stat().st_ino
    with open(place / "b", "ab", buffering=0) as handle:
        handle.write(b"678")
        assert (place / "a").stat().st_size == 8
        assert (place / "a").read_bytes() == b"12345678"
    os.chmod(place / "a", 0o600)
    assert stat.S_IMODE((place / "b").stat().st_mode) == 0o600
    os.truncate(place / "a", 2)
    assert (place / "b").read_bytes() == b"12"
    os.unlink(place / "a")
    assert ((place / "b").stat().st_nlink, (place / "b").read_bytes()) == (1, b"12")


def test_readers_and_writers_of_two_names(place: Path) -> None:
    """Handles on different names of one file see each other's bytes at once."""
    (place / "a").write_bytes(b"." * 100)
    os.link(place / "a", place / "b")
    with open(place / "a", "r+b", buffering=0) as one, open(place / "b", "r+b", buffering=0) as other:
        for turn in range(20):
            mark = b"%03d" % turn
            os.pwrite(one.fileno(), mark, turn)
            assert os.pread(other.fileno(), 3, turn) == mark
            os.pwrite(other.fileno(), mark, 50 + turn)
            assert os.pread(one.fileno(), 3, 50 + turn) == mark


def test_open_name_of_a_linked_file_can_go(place: Path) -> None:
    """Unlinking one of two names while it is open leaves one link, for the handle and for the other name."""
    (place / "a").write_bytes(b"x")
    os.link(place / "a", place / "b")
    with open(place / "a", "rb") as handle:
        os.unlink(place / "a")
        assert (place / "b").stat().st_nlink == 1
        assert os.fstat(handle.fileno()).st_nlink == 1
    assert (place / "b").stat().st_nlink == 1


def test_linking_refusals(place: Path) -> None:
    """A link is not made over what is there, nor to a directory; a link to a symbolic link is to itself."""
    (place / "d").mkdir()
    (place / "f").touch()
    (place / "s").symlink_to("f")
    _fails(errno.EEXIST, lambda: os.link(place / "f", place / "d"))
    _fails(errno.EPERM, lambda: os.link(place / "d", place / "e"))
    os.link(place / "s", place / "t", follow_symlinks=False)
    assert (place / "t").is_symlink()


def test_symbolic_links_are_kept_as_written(place: Path) -> None:
    """A link's text is any text of up to 4095 bytes; its size is the text's length, its mode 0777."""
    for number, target in enumerate(("f", "/etc/passwd", "../..", "a" * 4095, "with space\n", "\udcff")):
        link = place / f"link-{number}"
        os.symlink(target, link)
        assert os.readlink(link) == target
        found = os.lstat(link)
        assert (found.st_size, stat.S_IMODE(found.st_mode)) == (len(os.fsencode(target)), 0o777)
    _fails(errno.ENAMETOOLONG, lambda: os.symlink("a" * 4096, place / "long"))


def test_links_lead_somewhere(place: Path) -> None:
    """Links to files and directories are followed by the kernel, step by step."""
    (place / "d").mkdir()
    (place / "d" / "f").write_bytes(b"found")
    (place / "s").symlink_to("d")
    (place / "t").symlink_to("s/f")
    assert (place / "t").read_bytes() == b"found"
    assert os.listdir(place / "s") == ["f"]


def test_names_are_bytes(place: Path) -> None:
    """Names that are not UTF-8, of 255 bytes, or with any character but / and NUL, come back as they were made."""
    names = [b"\xff\xfe", "ü€𝄞".encode(), b"n" * 255, b" ", b"\n", b"-rf", b"$(x)", b"a\\b", b"\x01", b"..."]
    for name in names:
        with open(os.fsencode(place) + b"/" + name, "wb") as file:
            file.write(name)
    assert sorted(os.listdir(os.fsencode(place))) == sorted(names)
    for name in names:
        os.rename(os.fsencode(place) + b"/" + name, os.fsencode(place) + b"/x")
        assert (place / "x").read_bytes() == name
    _fails(errno.ENAMETOOLONG, lambda: (place / ("n" * 256)).touch())


def test_paths_beyond_path_max(place: Path) -> None:
    """A tree whose paths are longer than PATH_MAX is built, used and removed through directory descriptors."""
    name = "d" * 250
    current = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(20):
            os.mkdir(name, dir_fd=current)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=current)
            os.close(current)
            current = inner
        descriptor = os.open("f", os.O_CREAT | os.O_RDWR, dir_fd=current)
        os.write(descriptor, b"deep")
        os.close(descriptor)
        os.rename("f", "g", src_dir_fd=current, dst_dir_fd=current)
        assert os.stat("g", dir_fd=current).st_size == 4
        assert os.listdir(current) == ["g"]
    finally:
        os.close(current)
    shutil.rmtree(place / name)


def test_listing_tells_kinds_and_inodes(place: Path) -> None:
    """A listing gives each entry's type and inode without asking for it; `.` and `..` are there too."""
    (place / "file").touch()
    (place / "directory").mkdir()
    (place / "link").symlink_to("file")
    os.mkfifo(place / "fifo")
    with os.scandir(place) as entries:
        found = {
            entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries
        }
    expected = {}
    for name in ("file", "directory", "link", "fifo"):
        status = os.lstat(place / name)
        expected[name] = (status.st_ino, stat.S_ISDIR(status.st_mode), stat.S_ISLNK(status.st_mode))
    assert found == expected
    raw = subprocess.run(["ls", "-fi", place], capture_output=True, text=True, check=True).stdout.split()
    listed = dict(zip(raw[1::2], raw[::2], strict=True))
    assert listed["."] == str(place.stat().st_ino)
    assert listed[".."] == str(place.parent.stat().st_ino)


def test_listing_of_5000_entries(place: Path) -> None:
    """A directory of 5,000 entries is listed whole, each name once."""
    for number in range(5000):
        os.mknod(place / f"entry-{number}")
    names = os.listdir(place)
    assert len(names) == 5000
    assert set(names) == {f"entry-{number}" for number in range(5000)}


def test_listing_while_entries_come_and_go(place: Path) -> None:
    """Entries that stay are listed exactly once while others are made and removed."""
    stay = {f"stay-{number}" for number in range(300)}
    for name in stay:
        (place / name).touch()
    done = threading.Event()

    def churn() -> None:
        number = 0
        while not done.is_set():
            (place / f"go-{number % 50}").touch()
            (place / f"go-{(number + 25) % 50}").unlink(missing_ok=True)
            number += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(30):
            names = os.listdir(place)
            assert sorted(name for name in names if name in stay) == sorted(stay)
    finally:
        done.set()
        thread.join()


def test_removed_directory_is_empty(place: Path) -> None:
    """A directory removed while it is open lists nothing and takes nothing."""
    (place / "d").mkdir()
    directory = os.open(place / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.rmdir(place / "d")
        _fails(errno.ENOENT, lambda: os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    finally:
        os.close(directory)
    assert os.listdir(place) == []


def test_fifos_and_sockets_work(place: Path) -> None:
    """FIFOs and sockets are made, have their type, and carry bytes between processes that open them."""
    os.mkfifo(place / "fifo", 0o644)
    assert stat.S_ISFIFO(os.stat(place / "fifo").st_mode)
    with open(os.open(place / "fifo", os.O_RDWR), "r+b", buffering=0) as both:
        both.write(b"through")
        assert both.read(7) == b"through"
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(place)  # an address is at most 108 bytes
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
    assert stat.S_ISSOCK(os.stat(place / "socket").st_mode)


def test_exchange_is_refused_not_botched(shared_mount: Mount) -> None:
    """renameat2's RENAME_EXCHANGE and RENAME_NOREPLACE fail with EINVAL or do what they say; never anything else."""
    libc = ctypes.CDLL(None, use_errno=True)
    (shared_mount.path / "x").write_bytes(b"x")
    (shared_mount.path / "y").write_bytes(b"y")
    names = [os.fsencode(shared_mount.path / name) for name in ("x", "y")]
    assert libc.renameat2(-100, names[0], -100, names[1], 1) == -1
    assert ctypes.get_errno() in (errno.EINVAL, errno.EEXIST)
    exchanged = libc.renameat2(-100, names[0], -100, names[1], 2) == 0
    assert exchanged or ctypes.get_errno() == errno.EINVAL
    contents = [(shared_mount.path / name).read_bytes() for name in ("x", "y")]
    assert contents == ([b"y", b"x"] if exchanged else [b"x", b"y"])
