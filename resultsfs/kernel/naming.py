"""Requests about names and directories: making, removing, renaming, listing."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Collection
from contextlib import suppress

from resultsfs.collector import Identify
from resultsfs.filesystem import ResultsFilesystem
from resultsfs.hidden import is_hidden_name
from resultsfs.kernel import reply
from resultsfs.kernel.layout import names, texts
from resultsfs.kernel.listing import Fixed, Listed, Listing
from resultsfs.kernel.nodes import Answer, NodeRequests
from resultsfs.kernel.notes import Notes
from resultsfs.kernel.protocol import (
    FSYNC_FDATASYNC,
    FSYNC_IN,
    MKDIR_IN,
    MKNOD_IN,
    NODE_IN,
    READ_IN,
    RELEASE_IN,
    RENAME2_IN,
    RENAME_EXCHANGE,
    ROOT_ID,
)
from resultsfs.kernel.request import Later, Request, Wait
from resultsfs.kernel.slots import EPOCH, Intent, Slots
from resultsfs.kernel.table import Entry
from resultsfs.refs import REF_INODE

_MOST = 1 << 20  # bytes of entries in one answer
_READING = 64  # listings that keep a descriptor between requests; the others open one again


class NamingRequests(NodeRequests):
    """The requests about names and directories."""

    def __init__(self, filesystem: ResultsFilesystem, identify: Identify, results: Collection[str]) -> None:
        super().__init__(filesystem, identify, results)
        self._numbers = itertools.count(1)
        self._directories: dict[int, Listing | Fixed] = {}  # that are being read
        self.slots: Slots | None = None

    def begin(self, slots: Slots, notes: Notes) -> None:
        """Keep what another server would have to know; number handles as no server before this one has."""
        self.slots, self.notes = slots, notes
        notes.keep = self.filesystem.volume.shown.matters
        self.filesystem.exceeds = notes.exceeded
        self.views.begin(notes, slots.epoch)
        self._numbers = itertools.count((slots.epoch << EPOCH) + 1)
        self.filesystem.begin((slots.epoch << EPOCH) + 1)

    def close(self) -> None:
        """The session is over. What is kept stays on the disk."""
        slots, notes = self.slots, self.notes
        self.slots = self.notes = self.views.notes = None
        if slots is not None and notes is not None:
            slots.close()
            notes.close()
        for listing in self._directories.values():
            listing.close()

    def readlink(self, request: Request) -> Answer:
        """READLINK."""
        return os.fsencode(self.filesystem.readlink(self.path(request.nodeid)))

    # -- making -------------------------------------------------------------------------------------------

    def mknod(self, request: Request) -> Answer:
        """MKNOD."""
        asked = MKNOD_IN.unpack(request.body)
        (name,) = names(request.body, MKNOD_IN.size, 1)
        path = self.table.child(request.nodeid, name)
        self.filesystem.mknod(path, asked.mode, asked.rdev, again=request.resent)
        return self.made(request.nodeid, name, path)

    def mkdir(self, request: Request) -> Answer:
        """MKDIR."""
        asked = MKDIR_IN.unpack(request.body)
        (name,) = names(request.body, MKDIR_IN.size, 1)
        path = self.table.child(request.nodeid, name)
        self.filesystem.mkdir(path, asked.mode, again=request.resent)
        return self.made(request.nodeid, name, path)

    def symlink(self, request: Request) -> Answer:
        """SYMLINK."""
        (name,) = names(request.body, 0, 1)
        _, target = texts(request.body, 0, 2)
        path = self.table.child(request.nodeid, name)
        self.filesystem.symlink(path, target, again=request.resent)
        return self.made(request.nodeid, name, path)

    def link(self, request: Request) -> Answer:
        """LINK."""
        existing = NODE_IN.unpack(request.body).nodeid
        (name,) = names(request.body, NODE_IN.size, 1)
        path = self.table.child(request.nodeid, name)
        existing_path = self.path(existing)
        if is_hidden_name(existing_path.rpartition("/")[2]):
            *_, (directory, other) = self.table.get(existing).names  # one that was found after it was hidden
            if is_hidden_name(other):
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            existing_path = self.table.child(directory, other)
        self.filesystem.link(path, existing_path, again=request.resent)
        return self.made(request.nodeid, name, path)

    # -- removing -----------------------------------------------------------------------------------------

    def unlink(self, request: Request) -> Answer:
        """UNLINK."""
        (name,) = names(request.body, 0, 1)
        path = self.table.child(request.nodeid, name)
        with _done_before(request, FileNotFoundError):
            kept = self._hidden_away(request.nodeid, name, path)
            self.filesystem.unlink(path)
            self._gone(request.nodeid, name, kept)
        return b""

    def rmdir(self, request: Request) -> Answer:
        """RMDIR."""
        (name,) = names(request.body, 0, 1)
        with _done_before(request, FileNotFoundError):
            self.filesystem.rmdir(self.table.child(request.nodeid, name))
            self.table.gone(request.nodeid, name)
        return b""

    def _hidden_away(self, parent: int, name: str, path: str) -> tuple[Entry, str] | None:
        """Give the file a hidden name if this one is its last and it is open; file and hidden name.

        So its handles find it by a path, and outlive a server that dies.
        """
        entry = self.table.at(parent, name)
        if entry is None or entry.handles == 0 or entry.hidden or len(entry.names) > 1:
            return None
        hidden = f".fuse_hidden{os.urandom(8).hex()}"
        self.filesystem.hide(path, hidden)
        return entry, hidden

    def _gone(self, parent: int, name: str, kept: tuple[Entry, str] | None) -> None:
        self.table.gone(parent, name)
        if kept is not None:
            self.table.hide(*kept)

    def closed(self, nodeid: int) -> None:
        """A handle of a node is closed; after the last one a hidden file goes."""
        entry = self.table.get(nodeid)
        entry.handles -= 1
        if entry.handles == 0 and entry.hidden:
            parent, name = entry.names[0]
            entry.hidden = False
            self.table.gone(parent, name)
            self.filesystem.unlink(f"/{name}")
        self.table.forget(nodeid, 0)

    # -- renaming -----------------------------------------------------------------------------------------

    def rename(self, request: Request) -> Answer:
        """RENAME."""
        return self._rename(request, NODE_IN.unpack(request.body).nodeid, 0, NODE_IN.size)

    def rename2(self, request: Request) -> Answer:
        """RENAME2: with flags, which are honoured or refused."""
        asked = RENAME2_IN.unpack(request.body)
        return self._rename(request, asked.newdir, asked.flags, RENAME2_IN.size)

    def _rename(self, request: Request, new_parent: int, flags: int, offset: int) -> Answer:
        old_name, new_name = names(request.body, offset, 2)
        parent = request.nodeid
        old, new = self.table.child(parent, old_name), self.table.child(new_parent, new_name)
        if flags == RENAME_EXCHANGE:
            if not self._has_exchanged(request, old, new):
                self.filesystem.rename(old, new, flags)
                self.table.exchanged((parent, old_name), (new_parent, new_name))
            return b""
        if flags:
            with _done_before(request, FileNotFoundError, new, self.filesystem):
                self.filesystem.rename(old, new, flags)
                self.table.moved(parent, old_name, new_parent, new_name)
            return b""
        same = self.table.at(parent, old_name) is self.table.at(new_parent, new_name)
        with _done_before(request, FileNotFoundError, new, self.filesystem):
            kept = None if same else self._hidden_away(new_parent, new_name, new)
            try:
                self.filesystem.rename(old, new)
            except OSError:
                if kept is not None:
                    self.filesystem.unlink(f"/{kept[1]}")
                raise
            if kept is not None:
                self._gone(new_parent, new_name, kept)
            self.table.moved(parent, old_name, new_parent, new_name)
        return b""

    def _has_exchanged(self, request: Request, old: str, new: str) -> bool:
        """Note what is about to be exchanged; whether a server that died has done so on this very request."""
        if self.slots is None:
            return False
        nodes = self.filesystem.inode(old), self.filesystem.inode(new)
        if request.resent:
            before = self.slots.intended(request.unique, Intent.EXCHANGE)
            if before is not None:
                return before == nodes[::-1]
        self.slots.intend(request.unique, Intent.EXCHANGE, *nodes)
        return False

    # -- directories --------------------------------------------------------------------------------------

    def opendir(self, request: Request) -> Answer:
        """OPENDIR."""
        return reply.opened(next(self._numbers), 0)

    def releasedir(self, request: Request) -> Answer:
        """RELEASEDIR."""
        listing = self._directories.pop(RELEASE_IN.unpack(request.body).fh, None)
        if listing is not None:
            listing.close()
        return b""

    def fsyncdir(self, request: Request) -> Answer:
        """FSYNCDIR."""
        path, datasync = self.path(request.nodeid), FSYNC_IN.unpack(request.body).fsync_flags & FSYNC_FDATASYNC
        return Later(Wait.DISK, lambda: self.filesystem.fsyncdir(path, datasync), lambda _: b"")

    def _listing(self, request: Request) -> tuple[int, int, Listing | Fixed]:
        asked = READ_IN.unpack(request.body)
        listing = self._directories.pop(asked.fh, None)
        if listing is None:
            nodeid, ref = request.nodeid, request.nodeid == REF_INODE
            path = self.path(nodeid) if ref else ""
            listing = (
                Fixed(self.filesystem.readdir(path))
                if ref
                else Listing(lambda: self.filesystem.open_directory(self.path(nodeid)))
            )
        self._directories[asked.fh] = listing  # the last
        if len(self._directories) > _READING:
            next(itertools.islice(reversed(self._directories.values()), _READING, None)).close()
        return asked.offset, min(asked.size, _MOST), listing

    def readdir(self, request: Request) -> Answer:
        """READDIR."""
        offset, room, listing = self._listing(request)
        parts: list[bytes] = []
        while (found := listing.peek(offset)) is not None:
            room -= reply.dirent_size(found.name)
            if room < 0:
                break
            parts.append(reply.dirent(self._shown(request, found), found.following, found.name, found.kind))
            listing.taken()
            offset = found.following
        return b"".join(parts)

    def readdirplus(self, request: Request) -> Answer:
        """READDIRPLUS: a lookup for each entry, but for those that a collector would find otherwise."""
        offset, room, listing = self._listing(request)
        path: str | None = None
        parts: list[bytes] = []
        while (found := listing.peek(offset)) is not None:
            room -= reply.ENTRY_SIZE + reply.dirent_size(found.name)
            if room < 0:
                break
            if path is None:
                path = self.path(request.nodeid).rstrip("/")
            name = os.fsdecode(found.name)
            parts.append(self._entry_of(request.nodeid, f"{path}/{name}", name, found.kind))
            parts.append(reply.dirent(self._shown(request, found), found.following, found.name, found.kind))
            listing.taken()
            offset = found.following
        return b"".join(parts)

    def _shown(self, request: Request, found: Listed) -> int:
        """An entry's inode number; above the root there is nothing."""
        if request.nodeid == ROOT_ID and found.name == b"..":
            return self.filesystem.getattr("/").st_ino
        return found.inode

    def _entry_of(self, parent: int, path: str, name: str, kind: int) -> bytes:
        if name in (".", "..") or path in self._declared or stat.S_IFMT(kind) not in _LOOKED_UP:
            return reply.NO_ENTRY
        try:
            return self.made(parent, name, path)
        except FileNotFoundError:
            return reply.NO_ENTRY


_LOOKED_UP = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


class _done_before:
    """Takes an error as success when the request may have been carried out by a server that died.

    `left` is what must be there if it has.
    """

    def __init__(
        self,
        request: Request,
        error: type[OSError],
        left: str | None = None,
        filesystem: ResultsFilesystem | None = None,
    ) -> None:
        self._error = error if request.resent else None
        self._left = left
        self._filesystem = filesystem

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if kind is None or self._error is None or not issubclass(kind, self._error):
            return False
        if self._left is None or self._filesystem is None:
            return True
        with suppress(OSError):
            self._filesystem.inode(self._left)
            return True
        return False
