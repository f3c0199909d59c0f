"""The daemon killed, and another started on the same spool."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress

import pytest

from tests.support.mount import Mount


def test_nothing_that_was_closed_is_lost(mount: Mount) -> None:
    """After kill -9 and a restart on the same spool all closed files are there, with modes, links and times."""
    contents = {f"file-{number}": os.urandom(number * 1000) for number in range(30)}
    for name, content in contents.items():
        (mount.path / name).write_bytes(content)
    os.chmod(mount.path / "file-1", 0o640)
    os.utime(mount.path / "file-1", ns=(1, 2))
    os.link(mount.path / "file-2", mount.path / "link")
    (mount.path / "symlink").symlink_to("file-3")
    (mount.path / "d").mkdir()
    mount.kill9()
    mount.start()
    for name, content in contents.items():
        assert (mount.path / name).read_bytes() == content
    found = (mount.path / "file-1").stat()
    assert (found.st_mode & 0o777, found.st_mtime_ns) == (0o640, 2)
    assert (mount.path / "link").stat().st_nlink == 2
    assert os.readlink(mount.path / "symlink") == "file-3"
    assert len(os.listdir(mount.path)) == len(contents) + 3


def test_what_write_has_returned_for_is_kept(mount: Mount) -> None:
    """Bytes whose write has returned are kept though the file was still open when the daemon was killed.

    Where the kernel holds writes back, that is said of fsync.
    """
    descriptor = os.open(mount.path / "open", os.O_CREAT | os.O_WRONLY)
    try:
        for number in range(50):
            os.write(descriptor, b"%04d" % number)
        if "writeback cache: yes" in mount.log():
            os.fsync(descriptor)
        mount.kill9()
        if mount.transport == "fusepy":  # the native session passes open files through to the disk
            with pytest.raises(OSError) as caught:
                os.write(descriptor, b"after")
            assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    finally:
        with suppress(OSError):  # the close of a dead mount's file
            os.close(descriptor)
    mount.start()
    assert (mount.path / "open").read_bytes() == b"".join(b"%04d" % number for number in range(50))


def test_unlinked_open_files_are_gone_after_a_crash(mount: Mount) -> None:
    """What was unlinked before the daemon was killed does not come back, nor keep its room."""
    descriptor = os.open(mount.path / "gone", os.O_CREAT | os.O_WRONLY)
    try:
        os.write(descriptor, b"x" * 1000)
        os.unlink(mount.path / "gone")
        mount.kill9()
    finally:
        with suppress(OSError):
            os.close(descriptor)
    mount.start()
    assert os.listdir(mount.path) == []
    assert os.listdir(mount.spool / "hidden") == []


def test_result_staged_before_a_crash_is_collected_after_it(mount: Mount) -> None:
    """A large result that was closed, not uploaded, when the daemon was killed is spilled for the next collector."""
    content = os.urandom(500_000)
    (mount.path / "report").write_bytes(content)
    mount.kill9()
    mount.start()
    reference = mount.collect("report").stdout.decode()
    assert reference.startswith("/tekton/results/.ref/")
    assert (mount.path / ".ref" / reference.rpartition("/")[2]).read_bytes() == content


def test_killed_in_the_middle_of_writing(mount: Mount) -> None:
    """A writer sees an error when the daemon is killed; each file that it closed before is whole."""
    script = 'i=0; while head -c 10000 /dev/zero | tr "\\0" x > f-$i && echo $i; do i=$((i+1)); done'
    with subprocess.Popen(
        ["/bin/sh", "-c", script], cwd=mount.path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as writer:
        assert writer.stdout is not None
        closed = [int(writer.stdout.readline()) for _ in range(20)]
        mount.kill9()
        closed += [int(line) for line in writer.stdout]
    mount.start()
    for number in closed:
        assert (mount.path / f"f-{number}").read_bytes() == b"x" * 10_000
