"""Requests about nodes: looking up, forgetting, attributes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection

from resultsfs.collector import Collector, Identify
from resultsfs.filesystem import ResultsFilesystem
from resultsfs.hidden import is_hidden_name
from resultsfs.kernel import reply
from resultsfs.kernel.layout import Buffer, Malformed, names, texts
from resultsfs.kernel.notes import Notes
from resultsfs.kernel.protocol import (
    BATCH_FORGET_IN,
    FORGET_IN,
    FORGET_ONE,
    GETATTR_IN,
    ROOT_ID,
    SETATTR_IN,
    XATTR_IN,
    Fattr,
)
from resultsfs.kernel.request import Later, Request, Wait
from resultsfs.kernel.table import ROOT_ALIAS, Entry, Table, stale
from resultsfs.kernel.views import View, Views
from resultsfs.reference import Reference
from resultsfs.refs import REF_INODE, is_ref_path
from resultsfs.syscalls import Time
from resultsfs.tree import Concealed

Answer = Buffer | Later | None
"""What follows the header of an answer; None where there is no answer."""

VALID = 60
"""Seconds for which the kernel may keep names and attributes. All changes pass through it, so any time would do."""
_SPECIAL = (stat.S_IFIFO, stat.S_IFSOCK)


class NodeRequests:
    """The state of one mount, and the requests about its nodes.

    `results` are the declared names; `identify` tells collectors.
    """

    def __init__(self, filesystem: ResultsFilesystem, identify: Identify, results: Collection[str]) -> None:
        self.filesystem = filesystem
        self.table = Table()
        self.helpers: Collection[int] = ()
        """Pids of processes that this one has sent to the mount."""
        self.views = Views()
        self.notes: Notes | None = None
        self._identify = identify
        self._declared = frozenset(f"/{name}" for name in results)

    # -- where things are ---------------------------------------------------------------------------------

    def path(self, nodeid: int) -> str:
        """A path to a node, also to one that a collector was shown. Raises OSError ESTALE, ENOENT."""
        view = self.views.get(nodeid)
        return self.table.path(nodeid) if view is None else view.path

    def collector(self, request: Request) -> Collector | None:
        """The collector that sent a request, or None."""
        pid = request.caller.pid
        return None if pid in self.helpers else self._identify(pid)

    def told(self, parent: int, name: str, path: str, found: os.stat_result, generation: int) -> tuple[Entry, bytes]:
        """Count a lookup that succeeded; the node, and fuse_entry_out."""
        nodeid = found.st_ino if found.st_ino != ROOT_ID else ROOT_ALIAS
        entry = self.table.found(parent, name, nodeid, generation)
        if self.notes is not None and parent == REF_INODE:
            self.notes.reference(nodeid, name)
        answer = reply.entry(nodeid, generation, self._valid(path, found), VALID, found)
        return entry, answer

    def _valid(self, path: str, found: os.stat_result) -> int:
        """For how long a name holds: not at all where a collector may find something else than others do."""
        return 0 if path in self._declared or stat.S_IFMT(found.st_mode) in _SPECIAL else VALID

    def attributes(self, path: str) -> bytes:
        """fuse_attr_out, where a hidden name is none."""
        found = self.filesystem.getattr(path)
        if not is_hidden_name(path.rpartition("/")[2]):
            return _attributes(found)
        values = list(found)
        values[stat.ST_NLINK] -= 1
        fields = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blocks", "st_blksize", "st_rdev")
        return _attributes(os.stat_result(values, {field: getattr(found, field) for field in fields}))

    def made(self, parent: int, name: str, path: str) -> bytes:
        """The answer to a request that made a name."""
        return self.told(parent, name, path, *self.filesystem.lookup(path))[1]

    def entry(self, nodeid: int) -> bytes:
        """fuse_entry_out for a node that a predecessor has just made; the lookup is counted. Raises OSError."""
        path = self.table.path(nodeid)
        found, generation = self.filesystem.lookup(path)
        return reply.entry(nodeid, generation, self._valid(path, found), VALID, found)

    # -- looking up ---------------------------------------------------------------------------------------

    def lookup(self, request: Request) -> Answer:
        """LOOKUP."""
        (name,) = names(request.body, 0, 1)
        parent = request.nodeid
        path = self.table.child(parent, name)
        if is_hidden_name(name):
            return reply.negative(0)
        if is_ref_path(path) and Reference.from_name(name) is not None:
            # the size is the store's to say
            return Later(
                Wait.REFERENCE,
                lambda: self.filesystem.lookup(path),
                lambda found: self.told(parent, name, path, *found)[1],
            )
        try:
            found, generation = self.filesystem.lookup(path)
        except FileNotFoundError as error:
            self.table.gone(parent, name)
            # not for everybody, or not for long
            passing = isinstance(error, Concealed) or path in self._declared
            return reply.negative(0 if passing else VALID)
        if path in self._declared and stat.S_ISREG(found.st_mode):
            collector = self.collector(request)
            view = None if collector is None else self.views.of(collector, path, found)
            if view is not None:
                view.lookups += 1
                return reply.entry(view.nodeid, generation, 0, 0, _resized(found, view.size or 0))
        return self.told(parent, name, path, found, generation)[1]

    def forget(self, request: Request) -> Answer:
        """FORGET."""
        self._forget(request.nodeid, FORGET_IN.unpack(request.body).nlookup)
        return None

    def batch_forget(self, request: Request) -> Answer:
        """BATCH_FORGET."""
        head = BATCH_FORGET_IN.unpack(request.body)
        if len(request.body) < BATCH_FORGET_IN.size + head.nodes * FORGET_ONE.size:
            raise Malformed(f"{head.nodes} nodes to forget in {len(request.body)} bytes")
        for index in range(head.nodes):
            one = FORGET_ONE.unpack(request.body, BATCH_FORGET_IN.size + index * FORGET_ONE.size)
            self._forget(one.nodeid, one.nlookup)
        return None

    def _forget(self, nodeid: int, count: int) -> None:
        if self.views.get(nodeid) is not None:
            self.views.forget(nodeid, count)
        else:
            self.table.forget(nodeid, count)

    # -- attributes ---------------------------------------------------------------------------------------

    def getattr(self, request: Request) -> Answer:
        """GETATTR."""
        GETATTR_IN.unpack(request.body)
        view = self.views.get(request.nodeid)
        if view is not None:
            return self._getattr_view(view)
        path = self.table.path(request.nodeid)
        if is_ref_path(path):
            return Later(Wait.REFERENCE, lambda: self.filesystem.getattr(path), _attributes)
        return self.attributes(path)

    def _getattr_view(self, view: View) -> Answer:
        """The size is the publication's: it may have to be waited for."""
        try:
            found = self.filesystem.getattr(view.path)
        except FileNotFoundError:  # removed since: what is published stays
            found = view.found
        if view.size is not None:
            return reply.attributes(0, _resized(found, view.size))

        def work() -> int:
            publication = self.filesystem.publication(view.path, view.collector)
            if publication is None and found is view.found:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            return found.st_size if publication is None else len(publication[2])

        def finish(size: int) -> bytes:
            view.size = size
            return reply.attributes(0, _resized(found, size))

        return Later(Wait.COLLECTION, work, finish)

    def setattr(self, request: Request) -> Answer:
        """SETATTR: mode, owner, size, times, in this order."""
        asked = SETATTR_IN.unpack(request.body)
        valid = Fattr(asked.valid & 0x9FF)
        path = self.writable(request)
        filesystem = self.filesystem
        # chown(2) with -1 for both is a SETATTR of nothing; so is what precedes a stranger's write, which drops itself
        owners = not valid and request.caller.uid in (0, filesystem.getattr(path).st_uid)
        if owners or valid & Fattr.KILL_SUIDGID:
            filesystem.drop_set_id(path)
        if valid & Fattr.MODE:
            filesystem.chmod(path, asked.mode)
        if valid & (Fattr.UID | Fattr.GID):
            uid, gid = (asked.uid if valid & Fattr.UID else -1), (asked.gid if valid & Fattr.GID else -1)
            # set-id bits go as the disk lets them go, unless the kernel has said which stay
            filesystem.chown(path, uid, gid, restore=bool(valid & Fattr.MODE))
        if valid & Fattr.SIZE:
            filesystem.truncate(path, asked.size, asked.fh if valid & Fattr.FH else None)
        if valid & (Fattr.ATIME | Fattr.MTIME):
            atime = _time(valid, Fattr.ATIME, Fattr.ATIME_NOW, asked.atime, asked.atimensec)
            mtime = _time(valid, Fattr.MTIME, Fattr.MTIME_NOW, asked.mtime, asked.mtimensec)
            # a kernel that keeps times itself tells them again and again: nothing changes by that
            told = asked.valid & Fattr.CTIME and atime is None and mtime == filesystem.getattr(path).st_mtime_ns
            if not told:
                filesystem.utimens(path, atime, mtime)
        return self.attributes(path)

    def writable(self, request: Request) -> str:
        """A path to the node that a request wants to change.

        Raises OSError ESTALE for a collector's view, upon which the kernel looks the name up again.
        """
        view = self.views.get(request.nodeid)
        if view is not None:
            self.views.writes(view)
            raise stale()
        path = self.table.path(request.nodeid)
        if self.views.expects_writers and (collector := self.collector(request)) is not None:
            self.views.wrote(collector, path)
        return path

    def statfs(self, request: Request) -> Answer:
        """STATFS."""
        return reply.statfs(self.filesystem.statfs("/"))

    # -- extended attributes ------------------------------------------------------------------------------

    def getxattr(self, request: Request) -> Answer:
        """GETXATTR."""
        asked = XATTR_IN.unpack(request.body)
        (name,) = texts(request.body, XATTR_IN.size, 1)
        if not name.startswith("user."):
            # the kernel asks after capabilities with each write: no path need be walked for that
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return _sized(asked.size, self.filesystem.getxattr(self.path(request.nodeid), name))

    def listxattr(self, request: Request) -> Answer:
        """LISTXATTR."""
        asked = XATTR_IN.unpack(request.body)
        found = self.filesystem.listxattr(self.path(request.nodeid))
        return _sized(asked.size, b"".join(os.fsencode(name) + b"\0" for name in found))

    def setxattr(self, request: Request) -> Answer:
        """SETXATTR."""
        asked = XATTR_IN.unpack(request.body)
        (name,) = texts(request.body, XATTR_IN.size, 1)
        start = XATTR_IN.size + len(os.fsencode(name)) + 1
        value = bytes(request.body[start : start + asked.size])
        if len(value) < asked.size:
            raise Malformed(f"{len(value)} bytes of value where {asked.size} are due")
        path = self.path(request.nodeid)
        try:
            self.filesystem.setxattr(path, name, value, asked.flags)
        except FileExistsError:
            if not request.resent or self.filesystem.getxattr(path, name) != value:
                raise
        return b""

    def removexattr(self, request: Request) -> Answer:
        """REMOVEXATTR."""
        (name,) = texts(request.body, 0, 1)
        try:
            self.filesystem.removexattr(self.path(request.nodeid), name)
        except OSError as error:
            if not request.resent or error.errno != errno.ENODATA:
                raise
        return b""


Handler = Callable[[Request], Answer]


def _attributes(found: os.stat_result) -> bytes:
    return reply.attributes(VALID, found)


def _sized(room: int, value: bytes) -> bytes:
    """An extended attribute, or its length where the caller only asks for that."""
    if room == 0:
        return reply.size(len(value))
    if len(value) > room:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value


def _resized(found: os.stat_result, size: int) -> os.stat_result:
    values = list(found)
    values[stat.ST_SIZE] = size
    fields = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blksize", "st_rdev")
    kept = {field: getattr(found, field) for field in fields}
    return os.stat_result(values, {**kept, "st_blocks": -(-size // 512)})


def _time(valid: Fattr, given: Fattr, now: Fattr, seconds: int, nanoseconds: int) -> Time:
    if not valid & given:
        return None
    return "now" if valid & now else seconds * 10**9 + nanoseconds
