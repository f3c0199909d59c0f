"""The kernel's writeback cache: writes travel late, and collectors, limits and errors hold all the same."""

from __future__ import annotations

import errno
import mmap
import os
import signal
from collections.abc import Iterator

import pytest

from resultsfs.kernel import passthrough, writeback
from tests.support.mount import Mount, mounted
from tests.support.users import acting_as
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]
LIMIT = 1 << 30
BIG = os.urandom(300_000)


def _held_back(**settings: object) -> Iterator[Mount]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(passthrough.OFF, "off")
        with mounted(transport="native", settings=settings) as mount:
            assert "writeback cache: yes" in mount.log()
            assert f"passthrough: no: switched off by {passthrough.OFF}" in mount.log()
            yield mount


@pytest.fixture
def mount() -> Iterator[Mount]:
    """A volume whose writes the kernel holds back."""
    yield from _held_back()


@pytest.fixture
def limited() -> Iterator[Mount]:
    """The same, with a limit for one result as low as that allows."""
    yield from _held_back(**{"result-size-limit": LIMIT})


def test_writes_wait_and_close_does_not_return_before_they_are_written(mount: Mount) -> None:
    """What was written in many small pieces is in the spool when close has returned, and in a daemon's hands in few."""
    with open(mount.path / "f", "wb", buffering=0) as file:
        for number in range(3000):
            file.write(b"%04d" % number)
        assert os.fstat(file.fileno()).st_size == 12_000
    assert (mount.spool / "files" / "f").read_bytes() == b"".join(b"%04d" % number for number in range(3000))


def test_fsync_writes_back(mount: Mount) -> None:
    """fsync of a file that stays open brings it to the spool."""
    with open(mount.path / "f", "wb", buffering=0) as file:
        file.write(b"content")
        os.fsync(file.fileno())
        assert (mount.spool / "files" / "f").read_bytes() == b"content"


@pytest.mark.parametrize("name", ["report", "link"])
def test_bytes_of_an_open_writer_are_collected(mount: Mount, name: str) -> None:
    """What a writer that is still open has written is in the publication, whatever name the collector came by."""
    (mount.path / "link").symlink_to("report")
    with open(mount.path / "report", "wb", buffering=0) as file:
        file.write(b"all of it")
        assert mount.collect(name).stdout == b"all of it"
        file.write(b" and more")
    assert (mount.path / "report").read_bytes() == b"all of it and more"


def test_a_file_changed_while_open_is_published_anew(mount: Mount) -> None:
    """A later collector reads what has been written since through the same handle, or through a mapping of it."""
    with open(mount.path / "report", "w+b", buffering=0) as file:
        file.write(BIG)
        first = mount.collect("report").stdout
        os.pwrite(file.fileno(), b"changed", 0)
        second = mount.collect("report").stdout
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[-3:] = b"end"
            third = mount.collect("report").stdout
    assert len({first, second, third}) == 3
    reference = mount.path / ".ref" / third.decode().rpartition("/")[2]
    assert reference.read_bytes() == b"changed" + BIG[7:-3] + b"end"


def test_a_renamed_open_file_is_collected(mount: Mount) -> None:
    """A file that was moved to a result's name while it is open, in a directory of its own before, is found there."""
    (mount.path / "d").mkdir()
    with open(mount.path / "d" / "draft", "wb", buffering=0) as file:
        file.write(b"drafted")
        os.rename(mount.path / "d" / "draft", mount.path / "report")
        file.write(b" and moved")
        assert mount.collect("report").stdout == b"drafted and moved"


def test_a_file_that_only_its_owner_may_write_is_collected(mount: Mount) -> None:
    """Mode 0200 keeps nobody from fetching what is still to be written."""
    descriptor = os.open(mount.path / "report", os.O_CREAT | os.O_WRONLY, 0o200)
    try:
        os.write(descriptor, b"write only")
        assert mount.collect("report").stdout == b"write only"
    finally:
        os.close(descriptor)


def test_a_file_of_another_user_is_collected(mount: Mount) -> None:
    """A step of another user writes a file that nobody else may open: the server, which has few rights, fetches it."""
    with acting_as(12345):
        descriptor = os.open(mount.path / "report", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, b"mine alone")
        assert mount.collect("report").stdout == b"mine alone"
    finally:
        os.close(descriptor)


def test_close_tells_of_a_result_beyond_its_limit(limited: Mount) -> None:
    """A write beyond result-size-limit that had returned is told at close, at each until the last, and by an Event."""
    first = os.open(limited.path / "report", os.O_CREAT | os.O_WRONLY)
    second = os.dup(first)
    os.pwrite(first, b"beyond", LIMIT + 10)
    for descriptor, told in ((first, errno.EIO), (second, errno.EFBIG)):  # the kernel's own word comes first
        with pytest.raises(OSError) as caught:
            os.close(descriptor)
        assert caught.value.errno == told
    assert os.stat(limited.spool / "files" / "report").st_size <= LIMIT
    assert "ResultTooLarge" in limited.reasons()


def test_where_room_is_short_writes_are_refused_on_the_spot() -> None:
    """With less room than 1 GiB in the volume each write is counted before it returns."""
    for settings in _held_back(**{"volume-size-limit": 2 * LIMIT}):
        with open(settings.path / "filler", "wb") as file:
            file.truncate(2 * LIMIT - 1000)
        with open(settings.path / "f", "w+b", buffering=0) as file:
            file.write(b"x" * 1000)
            with mmap.mmap(file.fileno(), 0) as mapped:
                assert mapped[:3] == b"xxx"
            with pytest.raises(OSError) as caught:
                file.write(b"x")
            assert caught.value.errno == errno.ENOSPC


def test_nothing_that_waits_is_lost_with_a_server(mount: Mount) -> None:
    """The server is killed while the kernel holds writes back: the next one gets them, and the writer no error."""
    with open(mount.path / "f", "wb", buffering=0) as file:
        for number in range(1000):
            file.write(b"%04d" % number)
            if number == 500:
                before = mount.server
                os.kill(before, signal.SIGKILL)
        eventually(lambda: mount.replaced(before))
    assert (mount.path / "f").read_bytes() == b"".join(b"%04d" % number for number in range(1000))


def test_a_writer_learns_that_its_daemon_died(mount: Mount) -> None:
    """When holder and server are gone, what the kernel still held back is lost, and close says so."""
    descriptor = os.open(mount.path / "f", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"never arrives")
    mount.kill9()
    with pytest.raises(OSError) as caught:
        os.close(descriptor)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    mount.start()


def test_times_told_late_do_not_count_as_changes(mount: Mount) -> None:
    """After close a file's change time in the spool stands, whatever times the kernel tells again."""
    (mount.path / "f").write_bytes(b"content")
    os.chmod(mount.path / "f", 0o640)
    before = os.stat(mount.spool / "files" / "f").st_ctime_ns
    with open(mount.path / "f", "rb") as file:
        os.fsync(file.fileno())
    assert os.stat(mount.spool / "files" / "f").st_ctime_ns == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"result-size-limit": "1MiB"}, "a limit below 1 GiB is to be exact"),
        ({}, f"switched off by {writeback.OFF}"),
    ],
)
def test_who_does_without_says_why(settings: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small limits, and a switch in the environment, send each write to the spool at once; the log says so."""
    monkeypatch.setenv(passthrough.OFF, "off")
    if not settings:
        monkeypatch.setenv(writeback.OFF, "off")
    with mounted(transport="native", settings=settings) as mount:
        assert f"writeback cache: no: {reason}" in mount.log()
        with open(mount.path / "f", "wb", buffering=0) as file:
            file.write(b"content")
            assert (mount.spool / "files" / "f").read_bytes() == b"content"
