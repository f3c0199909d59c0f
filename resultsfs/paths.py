"""Paths of a volume, resolved beneath its own directory descriptor.

A volume's files belong to strangers: a directory may become a symbolic link between two system calls. So
every path is walked component by component from the root's descriptor, with O_NOFOLLOW, and the last
component is only ever used with a `*at` call that does not follow links. This also lifts the limit of
PATH_MAX on spool prefix plus path.
"""

from __future__ import annotations

import errno
import gc
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from resultsfs.reference import RESULTS_DIR

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection of garbage: where very many objects are made that stay, it takes as long as making them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def split(target: str) -> list[str]:
    """The names in a path, `..` among them."""
    return [name for name in target.split("/") if name not in ("", ".")]


def back_in(names: list[str], home: str = RESULTS_DIR) -> list[str] | None:
    """What is left of a path that has gone above `home`, from where it comes back to it; None where it does not."""
    wanted = split(home)
    at = wanted[:-1]
    for count, name in enumerate(names, 1):
        at = at[:-1] if name == ".." else [*at, name]
        if at == wanted:
            return names[count:]
        if at != wanted[: len(at)]:
            return None
    return None


def components(path: str) -> list[str]:
    """The names in an absolute path as the kernel hands it over. Raises OSError for `..` (never sent)."""
    names = split(path)
    if ".." in names:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    return names


def walk(root: int, names: list[str]) -> int:
    """A new O_PATH descriptor of the directory reached from `root`; the caller closes it.

    Raises OSError: ENOTDIR where a component is a link or no directory, ENOENT where it is missing.
    """
    current = os.open(".", _WALK, dir_fd=root)
    try:
        for name in names:
            following = os.open(name, _WALK, dir_fd=current)
            os.close(current)
            current = following
    except OSError as error:
        os.close(current)
        if error.errno == errno.ELOOP:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise
    return current


class Place:
    """A directory's descriptor and a name in it, for use in `with`; closes the descriptor if it is its own.

    A class and not a generator: every file operation makes one.
    """

    __slots__ = ("_directory", "_name", "_own")

    def __init__(self, directory: int, name: str, *, own: bool = False) -> None:
        self._directory, self._name, self._own = directory, name, own

    def __enter__(self) -> tuple[int, str]:
        return self._directory, self._name

    def __exit__(self, *exception: object) -> None:
        if self._own:
            os.close(self._directory)


def parent_of(root: int, path: str) -> Place:
    """The parent directory and the last name; `.` for the root itself. Raises OSError as `walk`."""
    names = components(path)
    if len(names) <= 1:
        return Place(root, names[0] if names else ".")
    return Place(walk(root, names[:-1]), names[-1], own=True)


@contextmanager
def pinned(root: int, path: str) -> Iterator[str]:
    """A name in /proc that reaches exactly the object at `path`, link or not, for calls that take no dir_fd.

    Raises OSError as the walk does; ELOOP never comes, for O_PATH opens a link itself.
    """
    with parent_of(root, path) as (directory, name):
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def open_regular(directory: int, name: str, flags: int) -> int:
    """Open a regular file and nothing else; a FIFO or device is never opened, so nothing can block or act.

    Raises OSError: ELOOP for a symbolic link, EISDIR for a directory, EPERM for what is no regular file.
    """
    # O_NONBLOCK: if the name became a FIFO after the kernel looked, the open returns and fstat tells
    descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=directory)
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        os.close(descriptor)
        raise
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EPERM
        raise OSError(code, os.strerror(code), name)
    return descriptor


def reopen(directory: int, name: str, flags: int) -> int:
    """Open a file that was open already, as `open_regular`, also where its mode would not let its owner open it now."""
    try:
        return open_regular(directory, name, flags)
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise
        with pinned(directory, name) as place:
            mode = stat.S_IMODE(os.stat(place).st_mode)
            os.chmod(place, mode | stat.S_IRUSR | stat.S_IWUSR)
            try:
                return open_regular(directory, name, flags)
            finally:
                os.chmod(place, mode)
