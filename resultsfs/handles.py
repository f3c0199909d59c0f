"""Open files, as the filesystem hands them to the kernel: plain ones, a collector's, and content by reference."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from resultsfs.collector import Collector
from resultsfs.errors import TooManyOpenFiles
from resultsfs.limits import Descriptors
from resultsfs.nodes import Node


class Handle(Protocol):
    """What can be read through a file handle."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from `offset`; the count of bytes, less than the buffer's length only at the end."""
        ...


@dataclass(slots=True)
class FileHandle:
    """A spool file, open by `descriptor`."""

    descriptor: int
    node: Node
    writer: bool

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read the file; short only at its end."""
        got = os.preadv(self.descriptor, [buffer], offset)
        while 0 < got < len(buffer):
            more = os.preadv(self.descriptor, [buffer[got:]], offset + got)
            if more == 0:
                break
            got += more
        return got


class PublicationHandle:
    """What a collector reads for one result; `finished` is called once, when it has been read to its end.

    `node` is the file that has the result's name, if there still is one: it counts as open. `collector` and `name`
    say whose publication of which result it is.
    """

    def __init__(
        self, content: bytes, finished: Callable[[], None], node: Node | None, collector: Collector, name: str
    ) -> None:
        self.node = node
        self.collector, self.name = collector, name
        self._content = content
        self._finished: Callable[[], None] | None = finished

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read the publication."""
        part = self._content[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        if offset + len(part) >= len(self._content) and self._finished is not None:
            finished, self._finished = self._finished, None
            finished()
        return len(part)


class LostHandle:
    """One that a predecessor had open and that could not be opened again."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Always raises OSError EIO."""
        raise OSError(errno.EIO, os.strerror(errno.EIO))


class Handles:
    """The table of open files: numbers as the kernel holds them, to handles. All count, also in the `process`; at `most`
    so many may be there before another one that takes a descriptor.
    """

    def __init__(self, most: int, process: Descriptors) -> None:
        self._most = most
        self._process = process
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._handles: dict[int, object] = {}

    def check(self) -> None:
        """Raise TooManyOpenFiles when no other file may be opened."""
        count = len(self._handles)
        if count >= self._most:
            raise TooManyOpenFiles(
                f"the volume has {count:,} files open, and volume-open-files is {self._most:,}: close some, or raise "
                "the setting"
            )
        self._process.check(count)

    def add(self, handle: object) -> int:
        """A number for a handle."""
        with self._lock:
            number = next(self._numbers)
            self._handles[number] = handle
        self._process.counted(1)
        return number

    def begin(self, first: int) -> None:
        """Count on from `first`: what other servers have handed out is below."""
        with self._lock:
            self._numbers = itertools.count(first)

    def put(self, number: int, handle: object) -> None:
        """Take over a handle with the number that a predecessor gave it."""
        with self._lock:
            self._handles[number] = handle
        self._process.counted(1)

    def get(self, number: int) -> object:
        """The handle of a number. Raises OSError EBADF for one that was not handed out, or is closed."""
        try:
            return self._handles[number]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def numbers(self) -> list[int]:
        """The numbers of all handles."""
        with self._lock:
            return list(self._handles)

    def remove(self, number: int) -> object:
        """Take a handle out of the table. Raises OSError EBADF as `get`."""
        with self._lock:
            handle = self.get(number)
            del self._handles[number]
        self._process.counted(-1)
        return handle
