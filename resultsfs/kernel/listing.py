"""Directories as they are listed: entries with the offsets that the spool's own disk gives them.

So a listing that has begun goes on where it was through any descriptor of the directory, also that of another server.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from resultsfs.syscalls import getdents

_HEAD = struct.Struct("=QqHB")  # ino, off, reclen, type
_CHUNK = 1 << 15  # bytes of entries read at once


class Listed(NamedTuple):
    """One entry: `following` is the offset of the next one, `kind` a file type as in st_mode, 0 when it is unknown."""

    name: bytes
    inode: int
    kind: int
    following: int


class Listing:
    """One open directory. `reopen` gives a readable descriptor of it. Its descriptor is held while it is being read."""

    def __init__(self, reopen: Callable[[], int]) -> None:
        self._reopen = reopen
        self._descriptor = -1
        self._ahead: deque[Listed] = deque()  # read, but not asked for yet
        self._at = 0  # the offset of the first of those
        self._end = -1  # the offset at which there is nothing more

    def peek(self, offset: int) -> Listed | None:
        """The entry at an offset; None at the end, and where the directory has been removed. Raises OSError."""
        if offset == self._end and offset != 0:
            return None
        if offset != self._at or not self._ahead:
            try:
                self._read(offset)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
        if self._ahead:
            return self._ahead[0]
        self._end = offset
        self.close()
        return None

    def taken(self) -> None:
        """The entry that `peek` showed has been told."""
        self._at = self._ahead.popleft().following

    def _read(self, offset: int) -> None:
        self._ahead.clear()
        fresh = self._descriptor < 0
        if fresh:
            self._descriptor = self._reopen()
        if fresh or offset != self._at:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
        self._at, self._end = offset, -1
        buffer = ctypes.create_string_buffer(_CHUNK)
        count = getdents(self._descriptor, buffer)
        raw, start = bytes(memoryview(buffer)[:count]), 0
        while start < count:
            inode, following, length, kind = _HEAD.unpack_from(raw, start)
            name = raw[start + _HEAD.size : start + length]
            self._ahead.append(Listed(name[: name.index(0)], inode, kind << 12, following))
            start += length

    def close(self) -> None:
        """Give the descriptor back; reading on opens another. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Fixed:
    """A directory that has the same entries for ever."""

    def __init__(self, entries: Iterable[tuple[str, int, int]]) -> None:
        self._entries = [
            Listed(os.fsencode(name), inode, kind, at) for at, (name, inode, kind) in enumerate(entries, start=1)
        ]
        self._at = 0

    def peek(self, offset: int) -> Listed | None:
        """As `Listing.peek`."""
        self._at = offset
        return self._entries[offset] if offset < len(self._entries) else None

    def taken(self) -> None:
        """As `Listing.taken`."""
        self._at += 1

    def close(self) -> None:
        """Nothing is held."""
