"""flock and fcntl locks between processes, on the disk and on the mount."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HOLDER = """
import fcntl, sys
handle = open(sys.argv[1], "r+b")
getattr(fcntl, sys.argv[2])(handle, int(sys.argv[3]))
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@contextmanager
def _held(file: Path, call: str, operation: int) -> Iterator[None]:
    """Another process holds a lock on the file meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _HOLDER, file, call, str(operation)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            yield
        finally:
            assert holder.stdin is not None
            holder.stdin.close()


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_exclusive_locks_exclude(place: Path, call: str) -> None:
    """An exclusive lock keeps other processes out until its holder ends."""
    file = place / "f"
    file.write_bytes(b"x" * 100)
    with open(file, "r+b") as handle:
        with _held(file, call, fcntl.LOCK_EX), pytest.raises(BlockingIOError):
            getattr(fcntl, call)(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        getattr(fcntl, call)(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_shared_locks_share(place: Path, call: str) -> None:
    """A shared lock admits others of its kind, and no exclusive one."""
    file = place / "f"
    file.write_bytes(b"x")
    with open(file, "r+b") as handle, _held(file, call, fcntl.LOCK_SH):
        getattr(fcntl, call)(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            getattr(fcntl, call)(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_locks_of_ranges(place: Path) -> None:
    """fcntl locks hold for the bytes they name only."""
    file = place / "f"
    file.write_bytes(b"x" * 100)
    descriptor = os.open(file, os.O_RDWR)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 10, 0)
        script = (
            "import fcntl, sys\n"
            "handle = open(sys.argv[1], 'r+b')\n"
            "fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)\n"
            "try:\n"
            "    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)\n"
            "except BlockingIOError:\n"
            "    print('kept out')\n"
        )
        run = subprocess.run([sys.executable, "-I", "-c", script, file], capture_output=True, check=True)
    finally:
        os.close(descriptor)
    assert run.stdout == b"kept out\n"
