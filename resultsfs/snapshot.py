"""Snapshots: what a collector finds at the results' names when it comes. Names that lead to one file are one result.

The kernel follows links before it asks, so of a link only the file that it leads to reaches us: what is published there
is what each of the file's names gets.
"""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resultsfs import message
from resultsfs.collected import Collected
from resultsfs.frozen import FoundAt
from resultsfs.publication import Candidate
from resultsfs.record import Keep
from resultsfs.uploads import FileSource

if TYPE_CHECKING:
    from resultsfs.volume import Volume


@dataclass(slots=True)
class _File:
    """One file: a descriptor of it, and the results that lead to it."""

    descriptor: int
    names: tuple[str, ...] = ()


def take(volume: Volume) -> tuple[list[Collected], list[FoundAt]]:
    """The files at the names of declared results, without those that earlier collectors have read as they are now; and
    where all of them were found."""
    files, found = _files(volume)
    items = [_collected(volume, file) for file in files]
    return [item for item in items if item is not None], found


def _files(volume: Volume) -> tuple[list[_File], list[FoundAt]]:
    files: dict[int, _File] = {}
    found: list[FoundAt] = []
    for name in volume.record.results:
        try:
            path = volume.resolve_result(name)
            descriptor = volume.open_path(path)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENXIO):
                volume.report("ResultNotAFile", name, f"result {name!r} is no regular file and is not collected")
            continue
        inode = os.fstat(descriptor).st_ino
        found.append(FoundAt(path, inode, name))
        file = files.setdefault(inode, _File(descriptor))
        file.names += (name,)
        if file.descriptor != descriptor:
            os.close(descriptor)
    return list(files.values()), found


def _collected(volume: Volume, file: _File) -> Collected | None:
    """The file as it is now, or None where a collector finds nothing new under any of its names."""
    source = volume.file_source(file.descriptor)
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
        source.close()
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
