"""A small disk for a spool, and how it fills up."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(directory: Path, size: int, inodes: int = 0) -> Iterator[Path]:
    """A disk of `size` bytes at a directory that is made, with so many inodes and links (0: no limit); takes root."""
    directory.mkdir()
    options = f"size={size},nr_inodes={inodes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def fill(file: Path) -> int:
    """Write a file until the disk takes nothing more, to the last byte; how many bytes those are."""
    written = 0
    with open(file, "wb", buffering=0) as handle:
        for piece in (65_536, 256, 1):
            try:
                while True:
                    written += handle.write(bytes(piece))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        os.fsync(handle.fileno())
    return written
