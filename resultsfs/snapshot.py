"""Snapshots: what a collector finds at the results' names when it comes. Names that lead to one file are one result.

The kernel follows links before it asks, so of a link only the file that it leads to reaches us: what is published there
is what each of the file's names gets.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from resultsfs import message
from resultsfs.collected import Collected
from resultsfs.frozen import FoundAt
from resultsfs.publication import Candidate
from resultsfs.record import Keep, Mode
from resultsfs.uploads import FileSource

if TYPE_CHECKING:
    from resultsfs.volume import Volume

T = TypeVar("T")


_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
_NO_FILE = (errno.EPERM, errno.ENXIO)
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # what a process may be short of for a moment
_PATIENCE, _PAUSE = 1.0, 0.05  # seconds: for all results of one collector, between two tries


@dataclass(slots=True)
class _File:
    """One file: a descriptor of it, and the results that lead to it."""

    descriptor: int
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class Snapshot:
    """What a collector finds: the results that are new, where each was found that there is, and by name the error number of
    those that cannot be read."""

    items: list[Collected] = field(default_factory=list)
    found: list[FoundAt] = field(default_factory=list)
    unreadable: dict[str, int] = field(default_factory=dict)


def take(volume: Volume) -> Snapshot:
    """The files at the names of declared results, without those that earlier collectors have read as they are now.

    What cannot be read is no reason to take it for absent: the collector gets the error, and an Event names it.
    """
    snapshot = Snapshot()
    for file in _files(volume, snapshot):
        try:
            item = _collected(volume, file)
        except OSError as error:
            for name in file.names:
                _unreadable(volume, snapshot, name, error)
        else:
            if item is not None:
                snapshot.items.append(item)
    return snapshot


def _unreadable(volume: Volume, snapshot: Snapshot, name: str, error: OSError) -> None:
    code = error.errno or errno.EIO
    if volume.record.mode is Mode.SIDECAR_LOGS:  # whose collector would end, or hang, by any error
        outcome = "so the TaskRun goes without it"
    else:
        snapshot.unreadable[name] = code
        outcome = "so the step fails"
    volume.report(
        "ResultUnreadable",
        name,
        f"result {name!r} cannot be read from the volume's disk, {outcome}: {os.strerror(code)} "
        f"({errno.errorcode.get(code, code)})",
    )


def _files(volume: Volume, snapshot: Snapshot) -> list[_File]:
    files: dict[int, _File] = {}
    until = time.monotonic() + _PATIENCE
    for name in volume.record.results:
        path = f"/{name}"
        try:
            path = _patiently(partial(volume.resolve_result, name), until)
            descriptor = _patiently(partial(volume.open_path, path), until)
        except OSError as error:
            if error.errno in _NO_FILE:
                volume.report("ResultNotAFile", name, f"result {name!r} is no regular file and is not collected")
            elif error.errno not in _ABSENT:
                snapshot.found.append(FoundAt(path, 0, name))
                _unreadable(volume, snapshot, name, error)
            continue
        inode = os.fstat(descriptor).st_ino
        snapshot.found.append(FoundAt(path, inode, name))
        file = files.setdefault(inode, _File(descriptor))
        file.names += (name,)
        if file.descriptor != descriptor:
            os.close(descriptor)
    return list(files.values())


def _patiently(work: Callable[[], T], until: float) -> T:
    """Do what may fail for want of descriptors or memory, again and again until then (monotonic seconds)."""
    while True:
        try:
            return work()
        except OSError as error:
            if error.errno not in _SHORT or time.monotonic() > until:
                raise
        time.sleep(_PAUSE)


def _collected(volume: Volume, file: _File) -> Collected | None:
    """The file as it is now, or None where a collector finds nothing new under any of its names. Raises OSError."""
    source = volume.file_source(file.descriptor)
    try:
        item = _seen(volume, file, source)
    except OSError:
        source.close()
        raise
    if item is None:
        source.close()
    return item


def _seen(volume: Volume, file: _File, source: FileSource) -> Collected | None:
    source.settle()
    digest = source.digest()
    size = source.size()
    content = None
    most = volume.limits().inline
    if size <= most:
        head = source.head(most + 1)
        if len(head) <= most:
            content, size, digest = head, len(head), hashlib.sha256(head).hexdigest()
        else:  # it has grown meanwhile
            size, digest = source.size(), None
    if _is_published(volume, file.names, source, size, digest):
        return None
    return Collected(file.names, source.inode, source, size, content, digest, _candidate(volume, file, size, content))


def _is_published(volume: Volume, names: tuple[str, ...], source: FileSource, size: int, digest: str | None) -> bool:
    """Whether that content has been read under all names: a name that is new needs the file, and it is opened as one."""
    earlier = [volume.spool.published.get(name) for name in names]
    if not all(entry is not None and entry.size == size for entry in earlier):
        return False
    if digest is None:
        digest = source.hash()  # after a restart of the daemon it may be the same content
    return digest is not None and all(entry is not None and entry.sha256 == digest for entry in earlier)


def _candidate(volume: Volume, file: _File, size: int, content: bytes | None) -> Candidate:
    first, *also = file.names
    kept = {volume.record.kept.get(name) for name in file.names}
    return Candidate(
        first,
        size,
        message.json_cost(content) if content is not None else size,
        keep=next((keep for keep in (Keep.INLINE, Keep.SKELETON) if keep in kept), None),
        chains=any(volume.settings.is_chains_name(name) for name in file.names),
        also=tuple(also),
    )
