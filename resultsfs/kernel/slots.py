"""The open files of a mount, kept on the disk for a server that takes over, and what the last request was about.

One file of records of 64 bytes, each written whole by one pwrite(2), so that a server that is killed leaves none
half-written; it outlives the server, not the machine, and neither does the mount. The first record is the head:
how many servers there have been. The second says what the latest request that must not be carried out twice was
about to do. The others hold one handle each; a record whose `fh` is 0 is free.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from resultsfs.kernel.protocol import RESEND

log = logging.getLogger(__name__)

_FORM = struct.Struct("=QQQIIIIIIQQ")
_SIZE = _FORM.size
_HEADS = 2  # records before the first handle's
_GROWTH = 1024  # records that room is made for at once
_EMPTY = bytes(_SIZE)
EPOCH = 40
"""A handle's number is the server's, in the upper bits, and a count: never that of another server's handle."""


class Kind(IntEnum):
    """What is read through a handle."""

    FILE = 0
    PUBLICATION = 1
    REFERENCE = 2


class Intent(IntEnum):
    """What a request was about to do."""

    NOTHING = 0
    APPEND = 1
    """Write at a file's end: `first` is where that was."""
    EXCHANGE = 2
    """Exchange two names: inode numbers, the first name's first."""


class Slot(NamedTuple):
    """One handle. `unique`, `made` and `answered` tell the answer that opened it: flags of the answer, and whether it
    was CREATE's. `pid`, `started` and `result` (a position among the volume's results) are a publication's.
    """

    fh: int
    unique: int
    nodeid: int
    flags: int
    answered: int
    backing_id: int = 0
    kind: int = Kind.FILE
    made: int = 0
    pid: int = 0
    started: int = 0
    result: int = 0


class Slots:
    """The file of records; used by one thread. Opening it counts one more server. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        self._places: dict[int, int] = {}
        self._sequence = self._noted = 0  # of records written, and of the last handle's
        self._room = max(_HEADS, len(content) // _SIZE)
        self._free: list[int] = []
        self.found: list[Slot] = []
        """The handles that a predecessor left, the oldest first."""
        self.last: Slot | None = None
        """The handle that was noted last: the kernel may not have been told of it."""
        self.closing = 0
        """The backing id that a predecessor was about to let go of, 0 for none; it may have done so."""
        for index in range(_HEADS, len(content) // _SIZE):
            self._take(index, content[index * _SIZE : (index + 1) * _SIZE])
        self.found.sort()
        self._free.reverse()
        head = _FORM.unpack(content[:_SIZE]) if len(content) >= _SIZE else (0,)
        self.epoch = int(head[0]) + 1
        self._intent = _FORM.unpack(content[_SIZE : 2 * _SIZE]) if len(content) >= 2 * _SIZE else (0,) * 11
        self._full = False
        self._write(0, _FORM.pack(self.epoch, *(0,) * 10))
        if not self._free:
            try:
                self._grow()
            except OSError:
                if not self.found:  # else a predecessor's are full, and so is the disk: `note` tries again
                    os.close(self._file)
                    raise

    def _take(self, index: int, record: bytes) -> None:
        fh, unique, nodeid, flags, answered, backing_id, kinds, pid, result, started, sequence = _FORM.unpack(record)
        if sequence > self._sequence:
            self._sequence, self.closing = sequence, 0 if fh else backing_id
        if fh == 0:
            self._free.append(index)
            return
        self._places[fh] = index
        kind, made = kinds & 0xFF, kinds >> 8
        slot = Slot(fh, unique, nodeid, flags, answered, backing_id, kind, made, pid, started, result)
        self.found.append(slot)
        if sequence > self._noted:
            self._noted, self.last = sequence, slot

    def _write(self, index: int, record: bytes) -> None:
        os.pwrite(self._file, record, index * _SIZE)

    def _grow(self) -> None:
        """Make room, which is then there also when the disk is full. Raises OSError."""
        os.posix_fallocate(self._file, self._room * _SIZE, _GROWTH * _SIZE)
        self._free = list(range(self._room + _GROWTH - 1, self._room - 1, -1))
        self._room += _GROWTH

    def note(self, slot: Slot) -> None:
        """A handle is about to be told to the kernel."""
        if not self._free:
            try:
                self._grow()
            except OSError as error:
                if not self._full:
                    log.warning("open files beyond %d would not outlive this server: %s", self._room, error.strerror)
                    self._full = True
                return
        index = self._places[slot.fh] = self._free.pop()
        fh, unique, nodeid, flags, answered, backing_id, kind, made, pid, started, result = slot
        self._sequence += 1
        kinds = kind | made << 8
        record = _FORM.pack(
            fh, unique, nodeid, flags, answered, backing_id, kinds, pid, result, started, self._sequence
        )
        os.pwrite(self._file, record, index * _SIZE)

    def drop(self, fh: int, closing: int = 0) -> None:
        """A handle is closed; `closing` is the backing id that goes with it, 0 for none."""
        index = self._places.pop(fh, None)
        if index is None:
            return
        record = _EMPTY
        if closing:
            self._sequence += 1
            record = _FORM.pack(0, 0, 0, 0, 0, closing, 0, 0, 0, 0, self._sequence)
        os.pwrite(self._file, record, index * _SIZE)
        self._free.append(index)

    def intend(self, unique: int, intent: Intent, first: int, second: int = 0) -> None:
        """What must not be done twice is about to be done."""
        self._write(1, _FORM.pack(unique & ~RESEND, intent, first, 0, 0, 0, 0, 0, 0, second, 0))

    def intended(self, unique: int, intent: Intent) -> tuple[int, int] | None:
        """What a predecessor noted of this very request; None when it did not get so far."""
        was, kind, first, *_, second, _ = self._intent
        return (first, second) if (was, kind) == (unique & ~RESEND, intent) else None

    def __len__(self) -> int:
        return len(self._places)

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -errno.EBADF
