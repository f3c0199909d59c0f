"""Sizes: `result-size-limit`, `volume-size-limit`, a full disk, and room that comes back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resultsfs.syscalls import fallocate
from tests.support.disk import small_disk
from tests.support.mount import Mount, mounted
from tests.support.users import needs_root
from tests.support.waiting import eventually

RESULT, VOLUME = 100_000, 250_000


@pytest.fixture
def small(transport: str) -> Iterator[Mount]:
    """A volume that takes 100,000 bytes a file and 250,000 in all."""
    with mounted(transport=transport, settings={"result-size-limit": RESULT, "volume-size-limit": VOLUME}) as found:
        yield found


def _fails(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == code, caught.value


def _fill(mount: Mount) -> None:
    """Fill the volume to the last byte."""
    (mount.path / "one").write_bytes(b"1" * RESULT)
    (mount.path / "two").write_bytes(b"2" * RESULT)
    (mount.path / "three").write_bytes(b"3" * (VOLUME - 2 * RESULT))


def _write(file: Path, count: int) -> None:
    """Write so many bytes, as soon as there is room."""

    def fits() -> bool:
        try:
            file.write_bytes(b"p" * count)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return False
        return True

    # a file that is unlinked while open goes when the kernel tells of its last close, a moment later
    eventually(fits)


def _has_room(mount: Mount, count: int) -> None:
    """Exactly `count` bytes can be written, and not one more; they are given back."""
    _write(mount.path / "probe", count)
    with open(mount.path / "more", "wb", buffering=0) as handle:
        _fails(errno.ENOSPC, lambda: handle.write(b"!"))
    os.unlink(mount.path / "more")
    os.unlink(mount.path / "probe")


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_a_file_grows_exactly_to_its_limit(small: Mount, flags: int) -> None:
    """The last byte up to `result-size-limit` is written, the next is EFBIG, and the file stays as it was."""
    file = small.path / "f"
    descriptor = os.open(file, flags | os.O_CREAT)
    try:
        for _ in range(10):
            assert os.write(descriptor, b"x" * (RESULT // 10)) == RESULT // 10
        _fails(errno.EFBIG, lambda: os.write(descriptor, b"y"))
        _fails(errno.EFBIG, lambda: os.ftruncate(descriptor, RESULT + 1))
        _fails(errno.EFBIG, lambda: fallocate(descriptor, 0, 0, RESULT + 1))
        if not flags & os.O_APPEND:
            _fails(errno.EFBIG, lambda: os.pwrite(descriptor, b"y", RESULT))
            assert os.pwrite(descriptor, b"z", RESULT - 1) == 1
    finally:
        os.close(descriptor)
    _fails(errno.EFBIG, lambda: os.truncate(file, RESULT + 1))
    assert file.stat().st_size == RESULT
    event = next(event for event in small.events() if event["reason"] == "ResultTooLarge")
    assert "result-size-limit" in event["message"]


def test_a_volume_fills_exactly_to_its_limit(small: Mount) -> None:
    """All files together take `volume-size-limit`; the next byte is ENOSPC, and an Event names the setting."""
    _fill(small)
    with open(small.path / "three", "ab", buffering=0) as handle:
        _fails(errno.ENOSPC, lambda: handle.write(b"y"))
    _fails(errno.ENOSPC, lambda: os.truncate(small.path / "three", VOLUME - 2 * RESULT + 1))
    (small.path / "empty").touch()
    event = next(event for event in small.events() if event["reason"] == "VolumeFull")
    assert "volume-size-limit" in event["message"]


def test_overwriting_needs_no_room(small: Mount) -> None:
    """In a full volume files are overwritten in place, and truncated and written again."""
    _fill(small)
    with open(small.path / "one", "r+b") as handle:
        handle.write(b"x" * RESULT)
    (small.path / "two").write_bytes(b"y" * RESULT)
    assert (small.path / "one").read_bytes() == b"x" * RESULT


def test_room_comes_back(small: Mount) -> None:
    """Unlinking, truncating and renaming over give room back to the byte."""
    _fill(small)
    os.unlink(small.path / "one")
    _has_room(small, RESULT)
    os.truncate(small.path / "two", 10)
    _write(small.path / "one", RESULT)
    _has_room(small, RESULT - 10)
    os.rename(small.path / "three", small.path / "one")
    _write(small.path / "filler", RESULT)
    _has_room(small, RESULT - 10)


def test_unlinked_open_file_keeps_its_room_until_closed(small: Mount) -> None:
    """An unlinked open file counts; its room comes back when it is closed, also if its directory is gone."""
    _fill(small)
    (small.path / "d").mkdir()
    os.rename(small.path / "one", small.path / "d" / "one")
    with open(small.path / "d" / "one", "rb"), open(small.path / "two", "rb"):
        os.unlink(small.path / "d" / "one")
        os.rename(small.path / "three", small.path / "two")
        os.rmdir(small.path / "d")
        _fails(errno.ENOSPC, lambda: (small.path / "more").write_bytes(b"x"))
    frame = os.statvfs(small.path).f_frsize
    eventually(lambda: os.statvfs(small.path).f_bavail == 2 * RESULT // frame)
    (small.path / "one").write_bytes(b"1" * RESULT)
    _has_room(small, RESULT)


def test_one_of_two_names_gives_nothing_back(small: Mount) -> None:
    """A file with two names counts once, and as long as it has one."""
    _fill(small)
    os.link(small.path / "one", small.path / "again")
    os.unlink(small.path / "one")
    _fails(errno.ENOSPC, lambda: (small.path / "more").write_bytes(b"x"))
    os.unlink(small.path / "again")
    _has_room(small, RESULT)


def test_limits_hold_after_a_restart(small: Mount) -> None:
    """A new daemon counts what lies in the spool, at any depth."""
    _fill(small)
    deep = small.path.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    os.rename(small.path / "one", deep / "one")
    small.restart()
    _fails(errno.ENOSPC, lambda: (small.path / "more").write_bytes(b"x"))
    os.unlink(deep / "one")
    _has_room(small, RESULT)


def test_sparse_files_count_whole(small: Mount) -> None:
    """A hole counts as if it were written: sizes are apparent sizes."""
    for name in ("one", "two"):
        with open(small.path / name, "wb") as handle:
            handle.truncate(RESULT)
    _has_room(small, VOLUME - 2 * RESULT)


def test_statfs_shows_the_limit(small: Mount) -> None:
    """statfs shows the volume's limit as its size, and what is left of it as free."""
    empty = os.statvfs(small.path)
    assert empty.f_blocks == VOLUME // empty.f_frsize
    (small.path / "one").write_bytes(b"1" * RESULT)
    filled = os.statvfs(small.path)
    assert filled.f_bavail == filled.f_bfree == (VOLUME - RESULT) // filled.f_frsize
    assert filled.f_namemax == 255


def test_statfs_without_a_near_limit_is_the_disks(transport: str) -> None:
    """Where the disk is smaller than the limit, statfs shows the disk."""
    with mounted(transport=transport, settings={"volume-size-limit": "1024TiB"}) as mount:
        disk, shown = os.statvfs(mount.spool), os.statvfs(mount.path)
        assert (shown.f_blocks, shown.f_frsize, shown.f_files) == (disk.f_blocks, disk.f_frsize, disk.f_files)


@needs_root
def test_full_spool_disk(transport: str, tmp_path: Path) -> None:
    """A full disk is ENOSPC for the writer; nothing else breaks, and writing goes on when there is room again."""
    with (
        small_disk(tmp_path / "disk", 1 << 20) as disk,
        mounted(transport=transport, spool=disk / "spool") as mount,
    ):
        (mount.path / "before").write_bytes(b"kept")
        with open(mount.path / "big", "wb", buffering=0) as handle:
            written = 0
            with pytest.raises(OSError) as caught:
                while True:
                    written += handle.write(b"x" * 65_536)
            assert caught.value.errno == errno.ENOSPC
            assert os.fstat(handle.fileno()).st_size == written
        assert (mount.path / "before").read_bytes() == b"kept"
        assert mount.collect("before").stdout == b"kept"
        os.unlink(mount.path / "big")
        eventually(lambda: os.statvfs(disk).f_bfree > 200)
        (mount.path / "after").write_bytes(b"y" * 500_000)
        assert (mount.path / "after").read_bytes() == b"y" * 500_000
