"""Many files at once: open ones, and entries of one directory."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.mount import Mount, mounted
from tests.support.waiting import eventually

OPEN, ENTRIES = 5_000, 50_000


def test_5000_open_files(mount: Mount) -> None:
    """5,000 files are open for writing at the same time, and each keeps its own content."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN + 200:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN + 200, hard))
    descriptors: list[int] = []
    try:
        for number in range(OPEN):
            descriptors.append(os.open(mount.path / str(number), os.O_CREAT | os.O_RDWR))
        for number, descriptor in enumerate(descriptors):
            os.write(descriptor, b"%d" % number)
        for number in (0, 1, OPEN // 2, OPEN - 1):
            assert os.pread(descriptors[number], 100, 0) == b"%d" % number
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir(mount.path)) == OPEN


@pytest.mark.slow
def test_50000_entries(mount: Mount) -> None:
    """A directory of 50,000 files is made, listed with types, and counted again by a new daemon."""
    for number in range(ENTRIES):
        os.mknod(mount.path / f"entry-{number:05}")
    with os.scandir(mount.path) as entries:
        assert sum(entry.is_file(follow_symlinks=False) for entry in entries) == ENTRIES
    mount.restart()
    assert sorted(os.listdir(mount.path)) == [f"entry-{number:05}" for number in range(ENTRIES)]


def test_open_files_of_a_volume_have_a_limit(transport: str) -> None:
    """Beyond `volume-open-files` opening is EMFILE, making a file too, an Event names the setting, and collectors read
    on; what is closed makes room."""
    with mounted(transport=transport, settings={"volume-open-files": 64}) as mount, ExitStack() as opened:
        (mount.path / "report").write_bytes(b"content")
        # fusepy hears of a close later than who closes
        eventually(lambda: _open(mount.path / "first", opened))
        for number in range(63):
            opened.enter_context(open(mount.path / str(number), "wb", buffering=0))
        assert not _open(mount.path / "one-more", opened) and not (mount.path / "one-more").exists()
        with pytest.raises(OSError) as caught:
            (mount.path / "report").read_bytes()
        assert caught.value.errno == errno.EMFILE
        found = [event for event in mount.events() if event["reason"] == "TooManyOpenFiles"]
        assert len(found) == 1 and "volume-open-files" in found[0]["message"]
        assert mount.collect("report").stdout == b"content"
        opened.close()
        eventually(lambda: _open(mount.path / "one-more", opened))


def _open(file: Path, opened: ExitStack) -> bool:
    try:
        opened.enter_context(file.open("wb", buffering=0))
    except OSError as error:
        assert error.errno == errno.EMFILE
        return False
    return True
