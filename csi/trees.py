"""Removing a tree that strangers have built: as deep and as wide as it is, no link followed, nothing outside touched."""

from __future__ import annotations

import errno
import os
from collections import deque
from itertools import islice

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BATCH = 1000
"""Names of one directory that are in memory at the same time."""
_LEVELS = 8
"""Directories, the current one and those above it, whose names are: the others are listed again on the way back."""


def remove(path: str) -> None:
    """Remove a directory with all that is in it; one that is gone is fine. Nobody may change it meanwhile.

    Neither by recursion (a step may build a tree deeper than Python's) nor by a program (a gRPC process must not
    fork). The memory that it takes does not grow with the tree. Raises OSError.
    """
    try:
        current = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        depth = 0
        full: deque[list[str]] = deque([[]], _LEVELS)  # by level: directories that are not empty
        while True:
            if not full[-1]:
                full[-1] = _emptied(current)
            down = bool(full[-1])
            if not down and depth == 0:
                break
            step = os.open(full[-1][-1] if down else "..", _DIRECTORY, dir_fd=current)
            os.close(current)
            current = step
            if down:
                depth += 1
                full.append([])
                continue
            depth -= 1
            full.pop()
            if not full:
                full.append([])  # forgotten on the way down
            elif full[-1]:
                os.rmdir(full[-1].pop(), dir_fd=current)
    finally:
        os.close(current)
    os.rmdir(path)


def _emptied(directory: int) -> list[str]:
    """Remove what can be at once: all but directories with something in them. Names of some of those; none, if there
    are none."""
    while True:
        with os.scandir(directory) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, _BATCH)]
        full = [name for name, is_directory in found if not _removed(directory, name, is_directory=is_directory)]
        if full or len(found) < _BATCH:
            return full


def _removed(directory: int, name: str, *, is_directory: bool) -> bool:
    """Whether it could be removed; False for a directory with something in it."""
    if not is_directory:
        os.unlink(name, dir_fd=directory)
        return True
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True
