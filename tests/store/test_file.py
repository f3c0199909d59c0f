"""The store in a directory: what a person or another program can see of it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from resultsfs.errors import ContentMissing, StoreRefused, UploadAbandoned
from resultsfs.settings import Settings
from resultsfs.store import Store
from tests.support.stores import chunks_of, content, key_of, put

PART = 5 << 20


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The store's directory, not made yet."""
    return tmp_path / "deep" / "store"


@pytest.fixture
def store(directory: Path) -> Store:
    """A store in it."""
    return Store.open(Settings(store=f"file://{directory}", store_part_size=PART))


def seen(directory: Path) -> dict[str, int]:
    """Files below the directory and their sizes."""
    return {str(path.relative_to(directory)): path.stat().st_size for path in directory.rglob("*") if path.is_file()}


def test_nobody_else_can_read(store: Store, directory: Path) -> None:
    """Files are 0600 and directories 0700, whatever the umask."""
    before = os.umask(0)
    try:
        put(store, content(3 * PART))
        put(store, b"small")
    finally:
        os.umask(before)
    for path in [directory, *directory.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_half_file_never_has_the_final_name(store: Store, directory: Path) -> None:
    """While content is being written its name does not exist; when it exists it is whole."""
    data = content(3 * PART)
    key = key_of(data)
    looks = []

    def watched() -> Iterator[bytes]:
        for chunk in chunks_of(data)():
            looks.append(key.path in seen(directory))
            yield chunk

    store.put(key, watched, len(data))
    assert set(looks) == {False}
    assert seen(directory) == {key.path: len(data)}


def test_an_abandoned_upload_leaves_no_file(store: Store, directory: Path) -> None:
    """What is stopped in the middle is removed."""
    data = content(6 * PART)
    stopped = threading.Event()
    moved = lambda count: stopped.set()  # noqa: E731  the first part that is written stops the rest
    with pytest.raises(UploadAbandoned):
        store.put(key_of(data), chunks_of(data), len(data), moved=moved, stop=stopped.is_set)
    assert seen(directory) == {}


def test_what_a_killed_process_left(store: Store, directory: Path) -> None:
    """Unfinished files are no content, and abort_stale removes those that are old enough."""
    key = put(store, b"content")
    left = directory / ".unfinished" / "left"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    young = directory / ".unfinished" / "young"
    young.write_bytes(b"half")
    assert list(store.runs()) == [(key.namespace, key.run)]
    assert store.abort_stale(3600) == 1
    assert not left.exists()
    assert young.exists()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_only_regular_files_are_content(store: Store, directory: Path, tmp_path: Path, kind: str) -> None:
    """A link, a FIFO or a directory in the place of content is not opened, not followed, and does not hang."""
    key = put(store, b"to be replaced")
    place = directory / key.path
    place.unlink()
    if kind == "symlink":
        (tmp_path / "outside").write_bytes(b"secret of the host")
        place.symlink_to(tmp_path / "outside")
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises((ContentMissing, StoreRefused)):
        store.fetch(key, 100)
    assert list(store.contents(key.namespace, key.run)) == []


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the way is refused at once, and the message names it."""
    (tmp_path / "file").write_bytes(b"")
    store = Store.open(Settings(store=f"file://{tmp_path}/file/store", store_retries=50))
    with pytest.raises(StoreRefused, match="file"):
        put(store, b"x")


@pytest.mark.parametrize("size", [1, 2 * PART])
def test_a_directory_that_nobody_can_make(size: int) -> None:
    """A write where no directory can be made is refused, naming store, directory and reason: no missing content."""
    store = Store.open(Settings(store="file:///proc/nope/store", store_part_size=PART, store_retries=50))
    with pytest.raises(StoreRefused, match="in file:///proc/nope/store: store directory /proc/nope cannot be made: No"):
        put(store, content(size))
    with pytest.raises(StoreRefused, match="cannot be made"):
        store.probe()


def test_a_directory_that_cannot_be_written(store: Store, directory: Path, tmp_path: Path) -> None:
    """A read-only filesystem refuses a write, also where the directories are there."""
    put(store, b"makes the directories")
    if os.geteuid() != 0 or os.system(f"mount --bind -o ro {directory} {directory} 2>/dev/null") != 0:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(StoreRefused, match=r"store directory .* cannot be (made|written): Read-only"):
            put(store, b"x")
    finally:
        assert os.system(f"umount {directory}") == 0


def test_progress_is_told_by_piece(store: Store) -> None:
    """A file is told as moved in pieces of a megabyte, not part by part."""
    data = content(3 * PART + 5)
    moved: list[int] = []
    store.put(key_of(data), chunks_of(data), len(data), moved=moved.append)
    assert max(moved) == 1 << 20
    assert sum(moved) == len(data)


def test_a_full_disk(tmp_path: Path) -> None:
    """A full disk is refused with ENOSPC, for small and large content, and nothing half-written stays."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=12m tmpfs {disk} 2>/dev/null") != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        store = Store.open(Settings(store=f"file://{disk}/store", store_part_size=PART, store_retries=50))
        for size in (16 << 20, 13 << 20):
            with pytest.raises(StoreRefused, match="store is full") as caught:
                put(store, content(size))
            assert caught.value.errno == 28
        assert seen(disk) == {}
        small = put(store, content(PART))
        assert seen(disk) == {f"store/{small.path}": PART}
    finally:
        assert os.system(f"umount {disk}") == 0
