"""Where a command writes a content to: a file, whole or not at all, or what else has that name."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from resultsfs.cli.failures import BadInput, Failure


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """What `path` names, for a content to be written. Links are followed.

    A file takes its place when all went well, with the mode and owner of the one that was there. What is no regular
    file (a device, a FIFO) is written as it is. Raises BadInput for a directory, Failure for what cannot be written.
    """
    try:
        before = os.stat(path)
    except FileNotFoundError:
        before = None
    except OSError as error:
        raise _unwritable(path, error) from None
    if before is not None and stat.S_ISDIR(before.st_mode):
        raise BadInput(f"{path} is a directory: name a file")
    place = os.path.realpath(path)
    # /dev/stdout and its like lead to a file that may have no name
    nameless = before is not None and not (os.path.exists(place) and os.path.samestat(before, os.stat(place)))
    straight = nameless or (before is not None and not stat.S_ISREG(before.st_mode))
    with _straight(path) if straight else _replacing(path, place, before) as file:
        yield file


@contextmanager
def _straight(path: str) -> Iterator[IO[bytes]]:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritable(path, error) from None
    with os.fdopen(descriptor, "wb") as file:
        yield file


@contextmanager
def _replacing(path: str, place: str, before: os.stat_result | None) -> Iterator[IO[bytes]]:
    """A file beside `place` that takes its place when all went well, and is removed otherwise."""
    directory, name = os.path.split(place)
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{name}.", suffix=".partial", dir=directory)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            if before is None:
                umask = os.umask(0)
                os.umask(umask)
                os.fchmod(descriptor, 0o666 & ~umask)
            else:
                with contextlib.suppress(PermissionError):  # only root gives files away
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, place)
    except BaseException:
        os.unlink(partial)
        raise


def _unwritable(path: str, error: OSError) -> Failure:
    return Failure(f"{path} cannot be written: {error.strerror}")
