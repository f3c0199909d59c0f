"""How many files a kernel holds registered for passthrough, asked through a copy of a process's descriptor."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from resultsfs.backing import Passthrough

_PIDFD_GETFD = 438  # the same number on all architectures
_MOST = 500
_libc = ctypes.CDLL(None, use_errno=True)


def let_go(pid: int) -> int:
    """Let go of all files, of the one mount whose descriptor a process has; how many there were.

    The kernel tells of them in no other way. Those that are open go on, but are not opened once more. Takes root.
    """
    (number,) = [int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir() if _is_fuse(path)]
    pidfd = os.pidfd_open(pid)
    try:
        copy = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
        if copy < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
    finally:
        os.close(pidfd)
    try:
        return sum(_close(Passthrough(copy), backing_id) for backing_id in range(1, _MOST))
    finally:
        os.close(copy)


def _is_fuse(path: Path) -> bool:
    try:
        return os.readlink(path) == "/dev/fuse"
    except FileNotFoundError:  # closed meanwhile
        return False


def _close(files: Passthrough, backing_id: int) -> bool:
    try:
        files.close(backing_id)
    except FileNotFoundError:
        return False
    return True
