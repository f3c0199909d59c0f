"""The same start for each sample: nothing of others' waits to be written back, and memory is at hand."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.scale import MIB

_BLOCK = os.urandom(MIB)


def settle(size: int) -> None:
    """Write back what others left, then write and remove a scratch file of `size` bytes, in the run's directory.

    In a virtual machine, memory that was free for a while must be got from the host again, which takes up to ten times
    as long as the write itself: whoever comes after a pause would pay for it.
    """
    os.sync()
    scratch = Path(tempfile.gettempdir()) / "scratch"
    try:
        write_file(scratch, size, MIB)
    finally:
        scratch.unlink(missing_ok=True)


def write_file(path: Path, size: int, block: int) -> None:
    """Create or truncate a file and write `size` bytes into it in blocks (at most 1 MiB), and close it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        data = memoryview(_BLOCK)[:block]
        left = size
        while left:
            left -= os.write(descriptor, data[:left])
    finally:
        os.close(descriptor)
