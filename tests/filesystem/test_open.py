"""open(2) with every flag, on the disk and on the mount."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path

import pytest

from tests.support.mount import Mount


def _errno_of(path: Path, flags: int, mode: int = 0o666) -> int:
    """The errno with which an open fails; 0 when it works."""
    try:
        os.close(os.open(path, flags, mode))
    except OSError as error:
        assert error.errno is not None
        return error.errno
    return 0


def test_create_makes_a_file_with_mode_and_umask(place: Path) -> None:
    """O_CREAT makes an empty file with the asked mode less the umask."""
    before = os.umask(0o027)
    try:
        os.close(os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o777))
    finally:
        os.umask(before)
    found = os.stat(place / "f")
    assert (found.st_mode & 0o7777, found.st_size, found.st_nlink) == (0o750, 0, 1)


def test_create_with_a_read_only_mode_still_writes(place: Path) -> None:
    """A handle that creates a file of mode 0 may write through it all the same."""
    descriptor = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0)
    try:
        assert os.write(descriptor, b"kept") == 4
        assert os.pread(descriptor, 10, 0) == b"kept"
    finally:
        os.close(descriptor)


def test_exclusive_create_refuses_what_is_there(place: Path) -> None:
    """O_EXCL fails with EEXIST on a file, a directory and a dangling link."""
    (place / "file").touch()
    (place / "directory").mkdir()
    (place / "link").symlink_to("nowhere")
    for name in ("file", "directory", "link"):
        assert _errno_of(place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY) == errno.EEXIST


def test_create_through_a_dangling_link_makes_its_target(place: Path) -> None:
    """O_CREAT without O_EXCL follows a dangling link."""
    (place / "link").symlink_to("target")
    os.close(os.open(place / "link", os.O_CREAT | os.O_WRONLY))
    assert (place / "target").is_file()


def test_truncating_open_empties_the_file(place: Path) -> None:
    """O_TRUNC leaves no byte of what was there, also for handles that are open."""
    file = place / "f"
    file.write_bytes(b"x" * 10_000)
    with open(file, "rb", buffering=0) as reader:
        os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
        assert file.stat().st_size == 0
        assert reader.read() == b""


def test_append_writes_at_the_end(place: Path) -> None:
    """O_APPEND writes at the end whatever the position, also for two handles in turn."""
    file = place / "f"
    file.write_bytes(b"start")
    first, second = (os.open(file, os.O_WRONLY | os.O_APPEND) for _ in range(2))
    try:
        os.lseek(first, 0, os.SEEK_SET)
        os.write(first, b"-1")
        os.write(second, b"-2")
        os.pwrite(first, b"-3", 0)
    finally:
        os.close(first)
        os.close(second)
    assert file.read_bytes() == b"start-1-2-3"


def test_append_can_be_switched_while_open(place: Path) -> None:
    """F_SETFL turns O_APPEND off and on for one open handle."""
    file = place / "f"
    file.write_bytes(b"abcdef")
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
        os.pwrite(descriptor, b"X", 0)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
        os.write(descriptor, b"!")
    finally:
        os.close(descriptor)
    assert file.read_bytes() == b"Xbcdef!"


def test_directory_flag(place: Path) -> None:
    """O_DIRECTORY opens directories only; a directory opens read-only only."""
    (place / "file").touch()
    (place / "directory").mkdir()
    assert _errno_of(place / "file", os.O_RDONLY | os.O_DIRECTORY) == errno.ENOTDIR
    assert _errno_of(place / "directory", os.O_RDONLY | os.O_DIRECTORY) == 0
    assert _errno_of(place / "directory", os.O_WRONLY) == errno.EISDIR
    assert _errno_of(place / "file" / "below", os.O_RDONLY) == errno.ENOTDIR


def test_nofollow_refuses_a_link(place: Path) -> None:
    """O_NOFOLLOW fails with ELOOP on a link; so does a link to itself."""
    (place / "file").touch()
    (place / "link").symlink_to("file")
    (place / "self").symlink_to("self")
    assert _errno_of(place / "link", os.O_RDONLY | os.O_NOFOLLOW) == errno.ELOOP
    assert _errno_of(place / "link", os.O_RDONLY) == 0
    assert _errno_of(place / "self", os.O_RDONLY) == errno.ELOOP


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC, os.O_NOATIME, os.O_NONBLOCK, os.O_NOCTTY, os.O_LARGEFILE])
def test_flags_that_change_nothing_visible(place: Path, flag: int) -> None:
    """Flags about durability, access time and blocking are accepted, and content is as without them."""
    file = place / "f"
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR | flag)
    try:
        os.write(descriptor, b"content")
        assert os.pread(descriptor, 100, 0) == b"content"
    finally:
        os.close(descriptor)


def test_direct_flag_with_aligned_blocks(place: Path) -> None:
    """O_DIRECT with aligned memory, offset and length reads and writes as any other handle."""
    with mmap.mmap(-1, 8192) as memory:
        memory[:] = b"d" * 8192
        descriptor = os.open(place / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        try:
            assert os.pwritev(descriptor, [memory], 4096) == 8192
            with mmap.mmap(-1, 8192) as back:
                assert os.preadv(descriptor, [back], 4096) == 8192
                assert back[:] == memory[:]
        finally:
            os.close(descriptor)
    assert (place / "f").read_bytes() == bytes(4096) + b"d" * 8192


def test_path_handle_has_attributes_but_no_content(place: Path) -> None:
    """O_PATH opens anything without opening it: fstat works, read fails with EBADF."""
    (place / "f").write_bytes(b"12345")
    descriptor = os.open(place / "f", os.O_PATH)
    try:
        assert os.fstat(descriptor).st_size == 5
        with pytest.raises(OSError) as caught:
            os.read(descriptor, 1)
        assert caught.value.errno == errno.EBADF
    finally:
        os.close(descriptor)


def test_access_modes_hold(place: Path) -> None:
    """A read-only handle does not write, a write-only one does not read."""
    file = place / "f"
    file.write_bytes(b"x")
    for flags, operation in (
        (os.O_RDONLY, lambda fd: os.write(fd, b"y")),
        (os.O_WRONLY, lambda fd: os.read(fd, 1)),
        (os.O_RDONLY, lambda fd: os.ftruncate(fd, 0)),
    ):
        descriptor = os.open(file, flags)
        try:
            with pytest.raises(OSError) as caught:
                operation(descriptor)
            assert caught.value.errno in (errno.EBADF, errno.EINVAL)
        finally:
            os.close(descriptor)
    assert file.read_bytes() == b"x"


def test_nameless_files_are_not_supported(shared_mount: Mount) -> None:
    """O_TMPFILE fails with EOPNOTSUPP, on which programs fall back to a name; neither transport knows it."""
    assert _errno_of(shared_mount.path, os.O_TMPFILE | os.O_RDWR) == errno.EOPNOTSUPP


def test_missing_file(place: Path) -> None:
    """Without O_CREAT a missing file is ENOENT, also below a missing directory."""
    assert _errno_of(place / "none", os.O_RDONLY) == errno.ENOENT
    assert _errno_of(place / "none" / "f", os.O_CREAT | os.O_WRONLY) == errno.ENOENT
