"""Passthrough: the kernel reads and writes the spool itself, and limits, collectors and uploads hold all the same."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from collections.abc import Iterator

import pytest

from resultsfs.backing import Passthrough
from resultsfs.kernel import passthrough
from resultsfs.syscalls import KEEP_SIZE, fallocate
from tests.support.mount import Mount, mounted
from tests.support.users import acting_as
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="takes CAP_SYS_ADMIN")]
LIMIT = 1 << 30
BIG = os.urandom(300_000)


def _through(**settings: object) -> Iterator[Mount]:
    with mounted(transport="native", settings=settings) as mount:
        if "passthrough: yes" not in mount.log():
            pytest.skip("no passthrough here: " + mount.log())
        yield mount


@pytest.fixture
def mount() -> Iterator[Mount]:
    """A volume whose files pass through."""
    yield from _through()


@pytest.fixture
def limited() -> Iterator[Mount]:
    """The same, with limits as low as passthrough allows."""
    yield from _through(**{"result-size-limit": LIMIT, "volume-size-limit": LIMIT + 1000})


def test_writes_do_not_need_the_daemon(mount: Mount) -> None:
    """An open file is written and read while the daemon is stopped."""
    with open(mount.path / "f", "w+b", buffering=0) as file:
        file.write(b"before")  # also lets the kernel ask what it asks but once
        os.kill(mount.server, 19)
        try:
            file.write(b" and while it stands still")
            assert os.pread(file.fileno(), 100, 0) == b"before and while it stands still"
        finally:
            os.kill(mount.server, 18)
    assert (mount.spool / "files" / "f").read_bytes() == b"before and while it stands still"


def test_collectors_beside_open_files(mount: Mount) -> None:
    """While a writer, a reader and a mapping of the result are open, a collector reads the publication, by any name."""
    (mount.path / "link").symlink_to("report")
    for name in ("report", "link"):
        content = os.urandom(100_000)
        with open(mount.path / "report", "w+b", buffering=0) as file:
            file.write(content)
            with mmap.mmap(file.fileno(), 0) as mapped:
                read = mount.collect(name)
                assert (read.returncode, len(read.stdout)) == (0, 87), read.stderr
                assert mapped[:] == content
                assert (mount.path / "report").read_bytes() == content
                file.write(b"more")
        assert (mount.path / "report").stat().st_size == len(content) + 4


def test_a_collector_opens_other_files_too(mount: Mount) -> None:
    """A file that is no result is itself for a collector, also while others have it open."""
    with open(mount.path / "other", "w+b", buffering=0) as file:
        file.write(b"plain")
        assert mount.collect("other").stdout == b"plain"
        file.write(b" and more")
        assert mount.collect("other").stdout == b"plain and more"


def test_truncating_through_a_read_only_handle(mount: Mount) -> None:
    """O_RDONLY with O_TRUNC empties the file, also for those that have it open."""
    with open(mount.path / "f", "w+b", buffering=0) as file:
        file.write(b"content")
        os.close(os.open(mount.path / "f", os.O_RDONLY | os.O_TRUNC))
        assert os.fstat(file.fileno()).st_size == 0
        assert os.pread(file.fileno(), 10, 0) == b""


def test_bytes_of_an_open_writer_are_collected(mount: Mount) -> None:
    """What a writer that is still open has written is in the publication, though no write passed by."""
    with open(mount.path / "report", "wb", buffering=0) as file:
        file.write(b"all of it")
        assert mount.collect("report").stdout == b"all of it"


def test_a_file_changed_while_open_is_published_anew(mount: Mount) -> None:
    """A later collector reads what has been written since through the same handle."""
    with open(mount.path / "report", "w+b", buffering=0) as file:
        file.write(BIG)
        first = mount.collect("report").stdout
        os.pwrite(file.fileno(), b"changed", 0)
        second = mount.collect("report").stdout
    assert first != second
    assert _referred(mount, second) == b"changed" + BIG[7:]


def _referred(mount: Mount, reference: bytes) -> bytes:
    """The content that a publication refers to."""
    return (mount.path / ".ref" / reference.decode().rpartition("/")[2]).read_bytes()


@pytest.mark.parametrize("open_", [True, False], ids=["open", "closed"])
def test_a_file_changed_through_a_mapping_is_published_anew(mount: Mount, open_: bool) -> None:
    """A second store into the same page changes no time of the file; the next collector finds it all the same."""
    with open(mount.path / "report", "w+b") as file:
        file.write(BIG)
        file.flush()
        mapping = mmap.mmap(file.fileno(), len(BIG))
    mapping[:4] = b"AAAA"
    first = mount.collect("report").stdout
    assert _referred(mount, first) == b"AAAA" + BIG[4:]
    mapping[:4] = b"BBBB"
    if not open_:
        mapping.close()
    second = mount.collect("report").stdout
    assert _referred(mount, second) == b"BBBB" + BIG[4:]
    assert mount.collect("report").stdout == b""  # which is nothing new


def test_room_is_kept_inside_what_was_just_written(mount: Mount) -> None:
    """fallocate(2) within the file succeeds, though nobody has told the daemon yet how long it is."""
    with open(mount.path / "f", "w+b", buffering=0) as file:
        file.write(bytes(1 << 16))
        fallocate(file.fileno(), KEEP_SIZE, 0, 1 << 16)
        with pytest.raises(OSError, match="not supported"):
            fallocate(file.fileno(), KEEP_SIZE, 0, 1 << 17)


def test_a_large_result_is_uploaded_after_its_last_close(mount: Mount) -> None:
    """The close of the last writer, which is all that the daemon sees, starts the upload."""
    (mount.path / "report").write_bytes(BIG)
    eventually(lambda: b"stored" in (mount.spool / "journal.jsonl").read_bytes())


def test_close_tells_of_a_result_beyond_its_limit(limited: Mount) -> None:
    """What a writer wrote beyond result-size-limit is cut off by the time that its close says EFBIG, with an Event."""
    descriptor = os.open(limited.path / "report", os.O_CREAT | os.O_WRONLY)
    os.pwrite(descriptor, b"kept", 0)
    os.pwrite(descriptor, b"beyond", LIMIT + 10)
    with pytest.raises(OSError) as caught:
        os.close(descriptor)
    assert caught.value.errno == errno.EFBIG
    assert (limited.path / "report").stat().st_size <= LIMIT
    assert os.stat(limited.spool / "files" / "report").st_size <= LIMIT
    assert "ResultTooLarge" in limited.reasons()


def test_a_full_volume_is_told_at_close(limited: Mount) -> None:
    """Two files that together exceed volume-size-limit: the close of the second says ENOSPC."""
    (limited.path / "first").touch()
    os.truncate(limited.path / "first", LIMIT - 1000)
    descriptor = os.open(limited.path / "second", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"x" * 3000)
    with pytest.raises(OSError) as caught:
        os.close(descriptor)
    assert caught.value.errno == errno.ENOSPC
    assert (limited.path / "second").stat().st_size <= 2000
    assert "VolumeFull" in limited.reasons()


def test_the_watch_cuts_what_does_not_end(limited: Mount) -> None:
    """A writer that never closes is cut off while it writes, and the Event comes then."""
    with subprocess.Popen(
        ["python3", "-c", f"import os,time; f=open('f','wb',0); os.pwrite(f.fileno(),b'x',{LIMIT}+5); time.sleep(60)"],
        cwd=limited.path,
    ) as writer:
        try:
            eventually(lambda: "ResultTooLarge" in limited.reasons())
            eventually(lambda: (limited.path / "f").stat().st_size <= LIMIT)
        finally:
            writer.kill()


def test_exact_limits_do_without(tmp_path: object) -> None:
    """With a limit below 1 GiB writes pass by the daemon, which says so in its log."""
    with mounted(transport="native", settings={"result-size-limit": "1MiB"}) as mount:
        assert "passthrough: no: a limit below 1 GiB is to be exact" in mount.log()
        with open(mount.path / "f", "wb", buffering=0) as file, pytest.raises(OSError) as caught:
            while True:
                file.write(bytes(100_000))
        assert caught.value.errno == errno.EFBIG


def test_without_the_right_there_is_a_reason() -> None:
    """On a descriptor that is no FUSE session the trial fails, and a reason is given instead of an error."""
    with open(os.devnull, "rb") as device:
        reason = passthrough.refusal(Passthrough(device.fileno()), "/tmp")
    assert reason is not None
    assert reason.startswith("the kernel refuses it")


def test_set_id_bits_fall_at_close(mount: Mount) -> None:
    """Bits that are set while a stranger has a file open for writing are gone when they have written and closed it."""
    (mount.path / "f").touch()
    (mount.path / "f").chmod(0o777)
    with acting_as(12345):
        descriptor = os.open(mount.path / "f", os.O_WRONLY)
    (mount.path / "f").chmod(0o6777)
    with acting_as(12345):
        os.write(descriptor, b"x")
        os.close(descriptor)
    assert (mount.path / "f").stat().st_mode & 0o7777 == 0o777
