"""Being an ordinary user, for tests that run as root."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resultsfs import namespaces

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534
"""The user, and its group."""


@contextmanager
def owned_directory() -> Iterator[Path]:
    """A directory of the ordinary user's, outside of pytest's own, which is root's alone; gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="resultsfs-test-", dir="/var/tmp"))
    os.chown(made, NOBODY, NOBODY)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def open_up(directory: Path) -> None:
    """In a mount namespace of its own, make interpreter, repository and /dev/fuse reachable for everyone."""
    namespaces.enter_mount_namespace()
    fuse = directory / "fuse"
    os.mknod(fuse, stat.S_IFCHR | 0o666, os.makedev(10, 229))
    fuse.chmod(0o666)
    if os.path.exists("/dev/fuse"):
        namespaces.bind(str(fuse), "/dev/fuse")
    for needed in {Path(sys.base_prefix).resolve(), REPOSITORY}:
        closed = next((parent for parent in reversed(needed.parents) if not parent.stat().st_mode & stat.S_IXOTH), None)
        if closed is not None:
            handle = os.open(needed, os.O_PATH)
            namespaces.tmpfs(str(closed))
            needed.mkdir(parents=True)
            namespaces.bind(f"/proc/self/fd/{handle}", str(needed))
            os.close(handle)


def become_nobody() -> None:
    """Give up all of root's rights."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
