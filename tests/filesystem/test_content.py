"""Reading, writing, truncating, mapping and copying content, on the disk and on the mount."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import random
from pathlib import Path

import pytest

from resultsfs.syscalls import fallocate
from tests.support.mount import Mount

_KEEP_SIZE, _PUNCH_HOLE, _COLLAPSE, _ZERO = 1, 2, 8, 16


def test_blocks_of_all_sizes_come_back(place: Path) -> None:
    """What is written in blocks of odd sizes is read back the same in blocks of other odd sizes."""
    content = random.Random(7).randbytes(1_500_001)
    file = place / "f"
    with open(file, "wb", buffering=0) as writer:
        for size in (1, 511, 4096, 4097, 131_072, 131_073, 1_000_000):
            writer.write(content[writer.tell() : writer.tell() + size])
        writer.write(content[writer.tell() :])
    with open(file, "rb", buffering=0) as reader:
        parts: list[bytes] = []
        for size in (3, 4095, 65_536, 200_000, 10_000_000):
            while len(part := reader.read(size)) and len(parts) < 100:
                parts.append(part)
                if size < 200_000:
                    break
    assert hashlib.sha256(b"".join(parts)).digest() == hashlib.sha256(content).digest()


def test_overwriting_in_place_is_seen_at_once(place: Path) -> None:
    """A reader that holds the file open sees each overwrite, append and truncation as soon as it has returned."""
    file = place / "f"
    file.write_bytes(b"0" * 8192)
    reader, writer = os.open(file, os.O_RDONLY), os.open(file, os.O_WRONLY)
    both = os.open(file, os.O_RDWR)
    try:
        for turn in range(40):
            mark = b"%08d" % turn
            os.pwrite(writer if turn % 2 else both, mark, 4090)
            assert os.pread(reader, 8, 4090) == os.pread(both, 8, 4090) == mark
        os.ftruncate(writer, 4092)
        assert os.pread(reader, 100, 4090) == b"00"
        os.pwrite(writer, b"end", 5000)
        assert os.pread(reader, 10_000, 4092) == bytes(908) + b"end"
    finally:
        for descriptor in (reader, writer, both):
            os.close(descriptor)


def test_truncate_shortens_and_lengthens(place: Path) -> None:
    """truncate and ftruncate cut, and lengthen with zeros; what was cut off does not come back."""
    file = place / "f"
    file.write_bytes(b"abcdefgh")
    os.truncate(file, 3)
    os.truncate(file, 6)
    assert file.read_bytes() == b"abc\0\0\0"
    with open(file, "r+b") as handle:
        handle.truncate(1)
        assert os.fstat(handle.fileno()).st_size == 1
        handle.truncate(2)
    assert file.read_bytes() == b"a\0"


def test_sparse_file_takes_no_room(place: Path) -> None:
    """A hole reads as zeros, counts in the size and takes no blocks."""
    file = place / "f"
    with open(file, "wb", buffering=0) as handle:
        handle.seek(50_000_000)
        handle.write(b"end")
    found = file.stat()
    assert found.st_size == 50_000_003
    assert found.st_blocks * 512 < 1_000_000
    with open(file, "rb") as handle:
        assert handle.read(4096) == bytes(4096)


def test_fallocate_lengthens_and_punches(place: Path) -> None:
    """fallocate lengthens a file; with PUNCH_HOLE and ZERO_RANGE it turns bytes into zeros."""
    file = place / "f"
    file.write_bytes(b"x" * 20_000)
    with open(file, "r+b", buffering=0) as handle:
        fallocate(handle.fileno(), 0, 0, 30_000)
        assert file.stat().st_size == 30_000
        fallocate(handle.fileno(), _PUNCH_HOLE | _KEEP_SIZE, 4096, 4096)
        fallocate(handle.fileno(), _ZERO, 12_288, 4096)
        fallocate(handle.fileno(), _PUNCH_HOLE | _KEEP_SIZE, 29_000, 50_000)
    expected = b"x" * 4096 + bytes(4096) + b"x" * 4096 + bytes(4096) + b"x" * 3616 + bytes(10_000)
    assert file.read_bytes() == expected


def test_fallocate_refuses_what_no_limit_would_count(shared_mount: Mount) -> None:
    """Blocks kept beyond the file's end, and ranges cut out or put in, are EOPNOTSUPP on the mount."""
    with open(shared_mount.path / "allocated", "wb", buffering=0) as handle:
        handle.write(b"x" * 8192)
        for mode, length in ((_KEEP_SIZE, 1 << 20), (_KEEP_SIZE | _ZERO, 1 << 20), (_COLLAPSE, 4096)):
            with pytest.raises(OSError) as caught:
                fallocate(handle.fileno(), mode, 0, length)
            assert caught.value.errno == errno.EOPNOTSUPP
    assert (shared_mount.path / "allocated").stat().st_blocks <= 16


def test_shared_mapping_writes_the_file(place: Path) -> None:
    """What is written through a shared mapping is in the file, for other handles and after unmapping."""
    file = place / "f"
    file.write_bytes(b"-" * 10_000)
    with open(file, "r+b") as handle, mmap.mmap(handle.fileno(), 0) as mapping:
        mapping[5000:5005] = b"hello"
        mapping.flush()
        with open(file, "rb") as other:
            other.seek(5000)
            assert other.read(5) == b"hello"
        mapping[9999:10_000] = b"!"
    assert file.read_bytes() == b"-" * 5000 + b"hello" + b"-" * 4994 + b"!"


def test_shared_mapping_of_an_appending_handle(place: Path) -> None:
    """A mapping made through an O_APPEND handle is written back to where it belongs, not to the end."""
    file = place / "f"
    file.write_bytes(b"-" * 4096)
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND)
    try:
        with mmap.mmap(descriptor, 4096) as mapping:
            mapping[:5] = b"first"
            mapping.flush()
    finally:
        os.close(descriptor)
    assert file.read_bytes() == b"first" + b"-" * 4091


def test_mappings_read_the_file(place: Path) -> None:
    """Shared read-only and private mappings show the content; writing a private one leaves the file alone."""
    file = place / "f"
    file.write_bytes(b"content")
    with open(file, "rb") as handle:
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as shared:
            assert shared[:] == b"content"
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            private[:3] = b"CON"
            assert private[:] == b"CONtent"
    assert file.read_bytes() == b"content"


def test_mapping_outlives_its_descriptor(place: Path) -> None:
    """A mapping goes on working after close and unlink."""
    file = place / "f"
    file.write_bytes(b"x" * 4096)
    with open(file, "r+b") as handle:
        mapping = mmap.mmap(handle.fileno(), 0)
    file.unlink()
    mapping[:1] = b"y"
    mapping.flush()
    assert mapping[:2] == b"yx"
    mapping.close()


def test_kernel_copies_content(place: Path) -> None:
    """copy_file_range and sendfile copy within the filesystem."""
    source, target = place / "source", place / "target"
    source.write_bytes(bytes(range(256)) * 1000)
    with open(source, "rb") as reading, open(target, "wb") as writing:
        copied = 0
        while step := os.copy_file_range(reading.fileno(), writing.fileno(), 200_000, copied, copied):
            copied += step
        writing.seek(0, os.SEEK_END)
        assert os.sendfile(writing.fileno(), reading.fileno(), 0, 1000) == 1000
    assert target.read_bytes() == source.read_bytes() + source.read_bytes()[:1000]


def test_fsync_returns(place: Path) -> None:
    """fsync and fdatasync work on files, fsync on directories."""
    with open(place / "f", "wb", buffering=0) as handle:
        handle.write(b"durable")
        os.fsync(handle.fileno())
        os.fdatasync(handle.fileno())
    directory = os.open(place, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    assert (place / "f").read_bytes() == b"durable"


def test_seek_to_the_end_is_fresh(place: Path) -> None:
    """SEEK_END finds the end that another handle has just made."""
    file = place / "f"
    file.touch()
    with open(file, "rb", buffering=0) as reader, open(file, "ab", buffering=0) as writer:
        for size in (1, 10, 5000):
            writer.write(b"x" * size)
            assert reader.seek(0, os.SEEK_END) == os.fstat(writer.fileno()).st_size


def test_duplicates_share_one_position(place: Path) -> None:
    """dup'ed descriptors share position and stay usable when one is closed."""
    first = os.open(place / "f", os.O_CREAT | os.O_RDWR)
    second = os.dup(first)
    os.write(first, b"ab")
    os.close(first)
    os.write(second, b"cd")
    assert fcntl.fcntl(second, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    os.close(second)
    assert (place / "f").read_bytes() == b"abcd"


def test_offsets_beyond_reason(place: Path) -> None:
    """Negative offsets and lengths are EINVAL."""
    with open(place / "f", "w+b", buffering=0) as handle:
        for call in (
            lambda: os.pread(handle.fileno(), 1, -1),
            lambda: os.ftruncate(handle.fileno(), -1),
            lambda: os.lseek(handle.fileno(), -1, os.SEEK_SET),
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EINVAL
