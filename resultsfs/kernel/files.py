"""Requests about open files."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from resultsfs.backing import Backing
from resultsfs.collector import Identify
from resultsfs.errors import ResultTooLarge, VolumeFull
from resultsfs.filesystem import ResultsFilesystem
from resultsfs.handles import PublicationHandle
from resultsfs.kernel import reply
from resultsfs.kernel.layout import Malformed, names
from resultsfs.kernel.naming import NamingRequests
from resultsfs.kernel.nodes import Answer
from resultsfs.kernel.protocol import (
    COPY_FILE_RANGE_IN,
    CREATE_IN,
    FALLOCATE_IN,
    FLUSH_IN,
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    FOPEN_NOFLUSH,
    FOPEN_PASSTHROUGH,
    FSYNC_FDATASYNC,
    FSYNC_IN,
    LSEEK_IN,
    OPEN_IN,
    OPEN_KILL_SUIDGID,
    READ_IN,
    RELEASE_IN,
    WRITE_CACHE,
    WRITE_IN,
    InitFlag,
)
from resultsfs.kernel.request import Later, Request, Wait
from resultsfs.kernel.slots import Intent, Kind, Slot
from resultsfs.kernel.table import Entry
from resultsfs.kernel.views import View
from resultsfs.kernel.writeback import has_room
from resultsfs.refs import ReferenceHandle, is_ref_path

log = logging.getLogger(__name__)

MAX_IO = 1 << 20
"""Bytes in the largest read or write."""
_COPY_MOST = 8 << 20  # bytes that one COPY_FILE_RANGE moves; the caller asks for the rest


@dataclass(slots=True)
class Info:
    """An open file, as the filesystem wants it told."""

    flags: int
    fh: int = 0
    direct_io: int = 0


class FileRequests(NamingRequests):
    """The requests about open files. `readable` takes what READ answers, header and all.

    `cut` is called with the node of a file whose size or mode was changed past the kernel.
    """

    readable = memoryview(bytearray(reply.HEADER_SIZE + MAX_IO))
    passthrough: Backing | None = None
    """How files are registered with the kernel; None where this mount does without."""
    held_back = 0
    """Flags of INIT where the kernel holds writes back (see `writeback`)."""

    def __init__(self, filesystem: ResultsFilesystem, identify: Identify, results: Collection[str]) -> None:
        super().__init__(filesystem, identify, results)
        self._results = tuple(filesystem.volume.record.results)
        self._unseen: dict[int, int] = {}  # handles whose writes do not pass by, and their nodes
        self.cut: Callable[[int], None] = lambda nodeid: None

    # -- opening ------------------------------------------------------------------------------------------

    def open(self, request: Request) -> Answer:
        """OPEN."""
        asked = OPEN_IN.unpack(request.body)
        flags = asked.flags
        reading = flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_TRUNC
        view = self.views.get(request.nodeid)
        if view is not None and reading:
            return self._open_view(request, view, flags)
        path = self.writable(request)
        if is_ref_path(path):
            return self._open_waiting(Wait.REFERENCE, request, path, flags)
        if reading and self.collector(request) is not None:
            return self._open_waiting(Wait.COLLECTION, request, path, flags)
        return self._open_file(
            request, request.nodeid, path, flags, drop_set_id=bool(asked.open_flags & OPEN_KILL_SUIDGID)
        )

    def _open_file(
        self, request: Request, nodeid: int, path: str, flags: int, *, drop_set_id: bool = False, made: bool = False
    ) -> bytes:
        if flags & os.O_TRUNC and flags & os.O_ACCMODE == os.O_RDONLY:
            flags |= os.O_RDWR  # truncating is writing, whatever the handle may do afterwards
        info = Info(flags)
        held_back = self._hold_back(info)
        try:
            self.filesystem.open(path, info)
        except PermissionError:  # a daemon without rights over a file that its owner may not read
            if info.flags == flags:
                raise
            info.flags, held_back = flags, False
            self.filesystem.open(path, info)
        if self.held_back:
            info.direct_io = int(not held_back)
        try:
            if flags & os.O_TRUNC:
                self.filesystem.truncate(path, 0, info.fh)
                if drop_set_id:
                    self.filesystem.drop_set_id(path)
        except OSError:
            self.filesystem.release(info.fh)
            raise
        return self._opened(request, nodeid, info, made=made)

    def _hold_back(self, info: Info) -> bool:
        """Whether the kernel may hold back what is written through a new handle, which is then made fit for that."""
        access = info.flags & os.O_ACCMODE
        if not self.held_back or access == os.O_RDONLY:
            return bool(self.held_back)
        mapped = access == os.O_RDWR and not self.held_back & InitFlag.DIRECT_IO_ALLOW_MMAP
        if not mapped and not has_room(self.filesystem.volume):
            return False
        # the kernel reads the pages that it is to write a part of
        info.flags = info.flags & ~os.O_ACCMODE | os.O_RDWR
        return True

    def _opened(self, request: Request, nodeid: int, info: Info, *, made: bool = False) -> bytes:
        """fuse_open_out of a common file. All changes pass through this kernel, so its cache is never wrong."""
        entry = self.table.get(nodeid)
        entry.handles += 1
        access = info.flags & os.O_ACCMODE
        quiet = FOPEN_NOFLUSH if access == os.O_RDONLY else 0
        if self._passes_through(entry, info.fh):
            self._see_past(info.fh, nodeid, access)
            # The kernel keeps O_APPEND for the backing file though it be switched off: such writes come here.
            here = FOPEN_DIRECT_IO if info.flags & os.O_APPEND else 0
            return self._answer(request, nodeid, info, FOPEN_PASSTHROUGH | quiet | here, entry.backing_id, made)
        entry.cached = True
        # write-only handles go past the cache: half the copies
        direct = info.direct_io and access != os.O_RDONLY and (access == os.O_WRONLY or self.held_back)
        return self._answer(request, nodeid, info, (FOPEN_DIRECT_IO if direct else FOPEN_KEEP_CACHE) | quiet, made=made)

    def _answer(
        self, request: Request, nodeid: int, info: Info, answered: int, backing_id: int = 0, made: bool = False
    ) -> bytes:
        """fuse_open_out, noted for another server before the kernel is told."""
        if self.slots is not None:
            handle, who = self.filesystem.handle(info.fh), (Kind.FILE, int(made), 0, 0, 0)
            if isinstance(handle, PublicationHandle):
                collector = handle.collector
                who = (Kind.PUBLICATION, 0, collector.pid, collector.started, self._results.index(handle.name))
            elif isinstance(handle, ReferenceHandle):
                who = (Kind.REFERENCE, 0, 0, 0, 0)
            self.slots.note(Slot(info.fh, request.unique, nodeid, info.flags, answered, backing_id, *who))
        return reply.opened(info.fh, answered, backing_id)

    def _passes_through(self, entry: Entry, fh: int) -> bool:
        """Whether a new handle passes through: all of a file's handles do, with one backing id, or none."""
        if entry.backing_id:
            return True
        descriptor = None if self.passthrough is None or entry.cached else self.filesystem.descriptor(fh)
        if self.passthrough is None or descriptor is None:
            return False
        try:
            entry.backing_id = self.passthrough.open(descriptor)
        except OSError as error:
            log.warning("a file is served without passthrough: %s", error.strerror)
            return False
        return True

    def inherit(self, slot: Slot) -> None:
        """A handle that a predecessor told the kernel of, and that the filesystem has opened again."""
        if self.views.get(slot.nodeid) is not None:
            return
        entry = self.table.get(slot.nodeid)
        entry.handles += 1
        if slot.backing_id:
            entry.backing_id = slot.backing_id
            self._see_past(slot.fh, slot.nodeid, slot.flags & os.O_ACCMODE)
        elif slot.kind == Kind.FILE:
            entry.cached = True

    def _see_past(self, fh: int, nodeid: int, access: int) -> None:
        if access != os.O_RDONLY:
            self._unseen[fh] = nodeid
        if access == os.O_RDWR:
            self.filesystem.may_be_mapped(fh)

    def check_sizes(self) -> bool:
        """Look after files that are written past the daemon; whether there are any."""
        for fh, nodeid in list(self._unseen.items()):
            with suppress(ResultTooLarge, VolumeFull):  # told by an Event, and to the writer when it closes
                self._count(fh, nodeid)
        return bool(self._unseen)

    def _count(self, fh: int, nodeid: int) -> None:
        try:
            if self.filesystem.flush(fh):
                self.cut(nodeid)
        except (ResultTooLarge, VolumeFull):
            self.cut(nodeid)
            raise

    @property
    def unseen(self) -> bool:
        """Whether files are open whose writes do not pass by."""
        return bool(self._unseen)

    def _open_waiting(self, wait: Wait, request: Request, path: str, flags: int) -> Later:
        """Open by a collector that came by another name, or of content by reference."""
        info, nodeid = Info(flags), request.nodeid

        def finish(_: object) -> bytes:
            if self.filesystem.is_file(info.fh):
                return self._opened(request, nodeid, info)
            entry = self.table.get(nodeid)
            entry.handles += 1
            if not info.direct_io:
                return self._answer(request, nodeid, info, 0)
            # beside handles that pass through one must say that it does too; its reads come here all the same
            through = FOPEN_PASSTHROUGH if entry.backing_id else 0
            return self._answer(request, nodeid, info, FOPEN_DIRECT_IO | FOPEN_NOFLUSH | through, entry.backing_id)

        return Later(wait, lambda: self.filesystem.open(path, info), finish, lambda _: self.filesystem.release(info.fh))

    def _open_view(self, request: Request, view: View, flags: int) -> Later:
        info = Info(flags)

        def work() -> int | None:
            if not self.filesystem.open_publication(view.path, view.collector, info):
                self.filesystem.open(view.path, info)  # declared, but not collected: the file itself
                return None
            found = self.filesystem.publication(view.path, view.collector)
            return None if found is None else len(found[2])

        def finish(size: int | None) -> bytes:
            view.size = size
            return self._answer(request, view.nodeid, info, FOPEN_DIRECT_IO | FOPEN_NOFLUSH)

        return Later(Wait.COLLECTION, work, finish, lambda _: self.filesystem.release(info.fh))

    def create(self, request: Request) -> Answer:
        """CREATE."""
        asked = CREATE_IN.unpack(request.body)
        (name,) = names(request.body, CREATE_IN.size, 1)
        path, info = self.table.child(request.nodeid, name), Info(asked.flags)
        held_back = self._hold_back(info)
        try:
            found = self.filesystem.create(path, asked.mode, info, again=request.resent)
        except FileExistsError:
            if asked.flags & os.O_EXCL:
                raise
            entry = self.made(request.nodeid, name, path)
            node = self.table.at(request.nodeid, name)
            assert node is not None
            return entry + self._open_file(request, node.nodeid, path, asked.flags, made=True)
        if self.held_back:
            info.direct_io = int(not held_back)
        node, entry = self.told(request.nodeid, name, path, found, self.filesystem.generation(info.fh))
        return entry + self._opened(request, node.nodeid, info, made=True)

    def release(self, request: Request) -> Answer:
        """RELEASE."""
        asked = RELEASE_IN.unpack(request.body)
        if asked.fh in self._unseen:
            with suppress(ResultTooLarge, VolumeFull):  # the writer was told when it closed
                self._count(asked.fh, self._unseen.pop(asked.fh))
        self.filesystem.release(asked.fh)
        entry = None if self.views.get(request.nodeid) is not None else self.table.get(request.nodeid)
        closing = 0 if entry is None else self._let_go(entry)
        if self.slots is not None:
            self.slots.drop(asked.fh, closing)
        if closing and self.passthrough is not None:
            self.passthrough.close(closing)
        if entry is not None:
            self.closed(request.nodeid)
        return b""

    def _let_go(self, entry: Entry) -> int:
        """A handle goes; the backing id that goes with it, 0 for none."""
        closing = 0
        if entry.handles == 1:
            closing, entry.backing_id, entry.cached = entry.backing_id, 0, False
        return closing

    def flush(self, request: Request) -> Answer:
        """FLUSH: the end of writing past the daemon or late, where limits are told. Else there is nothing to do."""
        asked = FLUSH_IN.unpack(request.body)
        if self.passthrough is None and not self.held_back:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if asked.fh in self._unseen:
            self._count(asked.fh, request.nodeid)
        elif self.held_back:
            self.filesystem.tell_refused(asked.fh)
        return b""

    # -- content ------------------------------------------------------------------------------------------

    def read(self, request: Request) -> Answer:
        """READ. The answer lies in `readable`, with room for its header; or it is content by reference."""
        asked = READ_IN.unpack(request.body)
        size = min(asked.size, MAX_IO)
        if self.filesystem.may_wait(asked.fh):
            own = bytearray(size)
            return Later(
                Wait.REFERENCE,
                lambda: self.filesystem.read_into(asked.fh, memoryview(own), asked.offset),
                lambda count: memoryview(own)[:count],
            )
        start = reply.HEADER_SIZE
        count = self.filesystem.read_into(asked.fh, self.readable[start : start + size], asked.offset)
        return self.readable[: start + count]

    def write(self, request: Request) -> Answer:
        """WRITE."""
        asked = WRITE_IN.unpack(request.body)
        data = request.body[WRITE_IN.size : WRITE_IN.size + asked.size]
        if len(data) < asked.size:
            raise Malformed(f"{len(data)} bytes to write where {asked.size} are due")
        append, offset = bool(asked.flags & os.O_APPEND) and not asked.write_flags & WRITE_CACHE, asked.offset
        if append and self.slots is not None:
            before = self.slots.intended(request.unique, Intent.APPEND) if request.resent else None
            if before is not None:  # a server that died may have written it: again, to the same place
                append, offset = False, before[0]
            else:
                self.slots.intend(request.unique, Intent.APPEND, self.filesystem.size(asked.fh))
        try:
            return reply.size(self.filesystem.write(asked.fh, data, offset, append=append))
        except OSError as error:
            if asked.write_flags & WRITE_CACHE:  # the write itself has returned long ago
                self.filesystem.refused(asked.fh, error)
            raise

    def fsync(self, request: Request) -> Answer:
        """FSYNC."""
        asked = FSYNC_IN.unpack(request.body)
        datasync = asked.fsync_flags & FSYNC_FDATASYNC
        return Later(Wait.DISK, lambda: self.filesystem.fsync(asked.fh, datasync), lambda _: b"")

    def fallocate(self, request: Request) -> Answer:
        """FALLOCATE."""
        asked = FALLOCATE_IN.unpack(request.body)
        self.filesystem.fallocate(asked.fh, asked.mode, asked.offset, asked.length)
        return b""

    def lseek(self, request: Request) -> Answer:
        """LSEEK: where data or a hole begins."""
        asked = LSEEK_IN.unpack(request.body)
        if self.held_back:  # the spool does not know of all data yet: the kernel says that there are no holes
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if asked.whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise Malformed(f"whence {asked.whence}")
        return reply.offset(self.filesystem.lseek(asked.fh, asked.offset, asked.whence))

    def copy_file_range(self, request: Request) -> Answer:
        """COPY_FILE_RANGE."""
        asked = COPY_FILE_RANGE_IN.unpack(request.body)
        length = min(asked.len, _COPY_MOST)
        count = self.filesystem.copy_file_range(asked.fh_in, asked.off_in, asked.fh_out, asked.off_out, length)
        return reply.size(count)
