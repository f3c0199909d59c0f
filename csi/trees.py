"""Removing a tree that strangers have built: as deep as it is, no link followed, nothing outside touched."""

from __future__ import annotations

import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: str) -> None:
    """Remove a directory with all that is in it; one that is gone is fine. Nobody may change it meanwhile.

    Neither by recursion (a step may build a tree deeper than Python's) nor by a program (a gRPC process must not
    fork). Raises OSError.
    """
    try:
        current = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        pending = [_emptied(current)]
        while True:
            if pending[-1]:
                name = pending[-1][-1]
                step = os.open(name, _DIRECTORY, dir_fd=current)
                os.close(current)
                current = step
                pending.append(_emptied(current))
            else:
                pending.pop()
                if not pending:
                    break
                step = os.open("..", _DIRECTORY, dir_fd=current)
                os.close(current)
                current = step
                os.rmdir(pending[-1].pop(), dir_fd=current)
    finally:
        os.close(current)
    os.rmdir(path)


def _emptied(directory: int) -> list[str]:
    """Unlink all that is no directory; the names of those."""
    directories = []
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if is_directory:
            directories.append(name)
        else:
            os.unlink(name, dir_fd=directory)
    return directories
