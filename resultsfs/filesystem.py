"""File operations onto a volume, in fusepy's vocabulary (`fuse.Operations`), for any transport.

A loopback onto the spool: what POSIX asks for is the disk's own behaviour. On top of it lie three things only:
collectors read publications, `.ref` shows content by reference, and sizes are held to the limits. Every
operation raises OSError, whose errno is the kernel's answer. Times are nanoseconds; attributes are
`os.stat_result`. What each operation does, and the test that proves it, is in `docs/semantics.md`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from resultsfs import paths
from resultsfs.attributes import Attributes
from resultsfs.errors import ResultTooLarge, VolumeFull
from resultsfs.handles import FileHandle, Handle, LostHandle, PublicationHandle
from resultsfs.names import Names
from resultsfs.nodes import Node
from resultsfs.opening import NOT_OURS, FileInfo, Opening
from resultsfs.refs import ReferenceHandle, is_ref_path
from resultsfs.syscalls import KEEP_SIZE, PUNCH_HOLE, fallocate
from resultsfs.tree import SET_ID, Caller

__all__ = ["Caller", "FileInfo", "ResultsFilesystem"]


class ResultsFilesystem(Attributes, Names, Opening):
    """The file operations of one volume. Safe to be called from several threads.

    `exceeds` is called before a file is cut to a limit, or when a write that has returned is refused, with its inode
    number and what its writer will be told.
    """

    exceeds: Callable[[int, OSError], None] = staticmethod(lambda inode, error: None)

    # -- open files ---------------------------------------------------------------------------------------

    def create(self, path: str, mode: int, info: FileInfo, *, again: bool = False) -> os.stat_result:
        """Make and open a regular file that belongs to the caller; its attributes.

        `again`: a server that died may have made it, so an empty one that is there already is taken for that.
        """
        self._may_open()
        self._may_make(again=again)
        with self._at(path, make=True) as (directory, name):
            flags = (info.flags & ~NOT_OURS) | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL, mode & 0o7777, dir_fd=directory)
                self._nodes.made()
            except FileExistsError:
                if not again or os.stat(name, dir_fd=directory, follow_symlinks=False).st_size > 0:
                    raise
                descriptor = paths.reopen(directory, name, info.flags & ~NOT_OURS)
            try:
                owner = self._owner(directory)
                if owner != self._own:
                    os.fchown(descriptor, *owner)
                    if mode & SET_ID:
                        os.fchmod(descriptor, mode & 0o7777)
                return self._opened(descriptor, info)
            except BaseException:
                os.close(descriptor)
                raise

    def open(self, path: str, info: FileInfo) -> None:
        """Open a file. A collector that opens a result for reading gets its publication."""
        if is_ref_path(path):
            self._may_open()
            info.fh = self._handles.add(self._references.open(path, info.flags))
            return
        if info.flags & os.O_ACCMODE == os.O_RDONLY and self._open_collected(path, info):
            return
        self._may_open()
        with self._at(path) as (directory, name):
            descriptor = paths.open_regular(directory, name, info.flags & ~NOT_OURS)
        try:
            self._opened(descriptor, info)
        except BaseException:
            os.close(descriptor)
            raise

    def _open_collected(self, path: str, info: FileInfo) -> bool:
        collector = self._identify(self._caller().pid)
        return collector is not None and self.open_publication(path, collector, info)

    def _reading(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        assert isinstance(handle, FileHandle | PublicationHandle | ReferenceHandle | LostHandle)
        return handle

    def _file(self, fh: int) -> FileHandle:
        handle = self._handles.get(fh)
        if not isinstance(handle, FileHandle):
            code = errno.EIO if isinstance(handle, LostHandle) else errno.EBADF
            raise OSError(code, os.strerror(code))
        return handle

    def is_file(self, fh: int) -> bool:
        """Whether a handle is one of a file itself, not of a publication or of content by reference."""
        return isinstance(self._handles.get(fh), FileHandle)

    def may_wait(self, fh: int) -> bool:
        """Whether reading may have to wait for more than the spool's disk: content by reference."""
        return isinstance(self._handles.get(fh), ReferenceHandle)

    def read_into(self, fh: int, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from an open file; the count of bytes read."""
        return self._reading(fh).read_into(buffer, offset)

    def size(self, fh: int) -> int:
        """The size of an open file in bytes. Raises OSError EBADF for what is none."""
        return os.fstat(self._file(fh).descriptor).st_size

    def write(self, fh: int, data: memoryview | bytes, offset: int, *, append: bool = False) -> int:
        """Write, whole or not at all as far as the limits go; the count of bytes written.

        `append`: at the file's end, wherever that is. Raises OSError: EFBIG, ENOSPC by the limits.
        """
        handle = self._file(fh)
        node = handle.node
        if append or offset + len(data) > node.size:
            written = self._extend(handle, data, None if append else offset)
        else:
            written = os.pwrite(handle.descriptor, data, offset)
            if offset + written > node.size:  # truncated meanwhile, under another name
                with node.growth:
                    self._nodes.changed(node, os.fstat(handle.descriptor).st_size)
        node.generation += 1
        if node.setid and self._caller().uid != 0:
            self._drop_set_id(handle)
        return written

    def _extend(self, handle: FileHandle, data: memoryview | bytes, offset: int | None) -> int:
        node, written = handle.node, 0
        with node.growth:
            at = os.fstat(handle.descriptor).st_size if offset is None else offset
            self._reserve(node, at + len(data))
            try:
                written = os.pwrite(handle.descriptor, data, at)
            finally:
                if written < len(data):  # the disk is full
                    self._nodes.changed(node, os.fstat(handle.descriptor).st_size)
        return written

    def refused(self, fh: int, error: OSError) -> None:
        """A write that had returned was refused, too late to tell the writer: closing tells, until the last handle is
        gone, and an Event does."""
        node = self._file(fh).node
        self.exceeds(node.inode, error)
        node.exceeded = error
        if not isinstance(error, ResultTooLarge | VolumeFull):  # which have been reported
            self._volume.report("WriteLost", None, f"what a step had written could not be kept: {error.strerror}")

    def tell_refused(self, fh: int) -> None:
        """Raises what a write was refused for that had returned, until the file's last handle is gone."""
        handle = self._handles.get(fh)
        if isinstance(handle, FileHandle) and handle.writer and handle.node.exceeded is not None:
            raise handle.node.exceeded

    def flush(self, fh: int) -> bool:
        """Count what was written past this daemon (see `descriptor`), and cut off what exceeds a limit.

        When others than root close a file that has been written since it got set-id bits, these go. True when
        attributes have changed by that. Raises ResultTooLarge, VolumeFull, now and until the file is closed.
        """
        handle = self._handles.get(fh)
        if not isinstance(handle, FileHandle) or not handle.writer:
            return False
        node = handle.node
        with node.growth:
            found = os.fstat(handle.descriptor)
            seen = (found.st_size, found.st_ctime_ns)
            if node.seen != seen:
                node.seen, size = seen, found.st_size
                try:
                    self._reserve(node, size, written=True)
                except OSError as error:
                    node.exceeded = error
                    self.exceeds(node.inode, error)
                    os.ftruncate(handle.descriptor, self._nodes.room(node))
                    size = os.fstat(handle.descriptor).st_size
                self._nodes.changed(node, size)
        if node.exceeded is not None:
            raise node.exceeded
        drops = node.setid and found.st_mtime_ns > node.setid_since and self._caller().uid != 0
        if drops:
            self._drop_set_id(handle)
        return drops

    def descriptor(self, fh: int) -> int | None:
        """The spool file behind a handle, which the kernel may read and write itself; None for other content, and
        for files with set-id bits, which only writes that pass by drop."""
        handle = self._handles.get(fh)
        return handle.descriptor if isinstance(handle, FileHandle) and not handle.node.setid else None

    def _drop_set_id(self, handle: FileHandle) -> None:
        """As the kernel does it when someone without rights over the file writes to it."""
        found = os.fstat(handle.descriptor)
        drop = self._set_id_to_drop(found)
        os.fchmod(handle.descriptor, stat.S_IMODE(found.st_mode) & ~drop)
        handle.node.setid = bool(found.st_mode & SET_ID & ~drop)

    def may_be_mapped(self, fh: int) -> None:
        """The writer of a handle may store into the file through a mapping that nobody tells of (see `descriptor`)."""
        self._file(fh).node.mapped = True

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """Reserve or punch, as the spool's disk does it.

        Raises OSError EOPNOTSUPP for blocks kept beyond the file's end, which no limit would count.
        """
        handle = self._file(fh)
        node = handle.node
        with node.growth:
            end = offset + length
            if mode & KEEP_SIZE:
                # what is written past this daemon may not be counted yet
                if not mode & PUNCH_HOLE and end > os.fstat(handle.descriptor).st_size:
                    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            else:
                self._reserve(node, end)
            try:
                fallocate(handle.descriptor, mode, offset, length)
            finally:
                self._nodes.changed(node, os.fstat(handle.descriptor).st_size)
        if node.setid and self._caller().uid != 0:
            self._drop_set_id(handle)

    def copy_file_range(self, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int) -> int:
        """Copy between two open files, by sharing blocks where the disk can; the count of bytes copied.

        Raises OSError: EFBIG, ENOSPC by the limits, EXDEV for content by reference, which has no file here.
        """
        source, target = self._handles.get(fh_in), self._file(fh_out)
        if not isinstance(source, FileHandle):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        node = target.node
        with node.growth:
            length = max(0, min(length, os.fstat(source.descriptor).st_size - off_in))
            if length == 0:
                return 0
            self._reserve(node, off_out + length)
            try:
                return os.copy_file_range(source.descriptor, target.descriptor, length, off_in, off_out)
            finally:
                self._nodes.changed(node, os.fstat(target.descriptor).st_size)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """Where data or a hole begins at or after an offset. Raises OSError ENXIO beyond the last."""
        handle = self._handles.get(fh)
        if not isinstance(handle, FileHandle):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.lseek(handle.descriptor, offset, whence)

    def fsync(self, fh: int, datasync: int) -> None:
        """Make an open file's content durable on the spool's disk."""
        handle = self._handles.get(fh)
        if isinstance(handle, FileHandle):
            (os.fdatasync if datasync else os.fsync)(handle.descriptor)

    def release(self, fh: int) -> None:
        """The last user of a handle is gone; after the last writer the volume may upload the file."""
        handle = self._handles.remove(fh)
        if isinstance(handle, ReferenceHandle):
            handle.close()
        elif isinstance(handle, PublicationHandle):
            self._volume.shown.closed(handle.collector)
            if handle.node is not None:
                self._closed(handle.node, writer=False)
        elif isinstance(handle, FileHandle):
            os.close(handle.descriptor)
            self._closed(handle.node, writer=handle.writer)

    def close(self) -> None:
        """Close what is still open: the mount is gone, and nobody else will."""
        for fh in self._handles.numbers():
            with suppress(OSError):  # EBADF: a thread that had to wait was first
                self.release(fh)

    def _closed(self, node: Node, *, writer: bool) -> None:
        if self._nodes.close(node, writer=writer) and node.linked:
            self._volume.written(node)
        if node.handles == 0:
            node.exceeded = None
            for name in self._hidden.orphans(node.inode):
                os.unlink(name, dir_fd=self._volume.spool.hidden)
                self._hidden.remove(name)
                self._nodes.unlinked(node.inode)

    # -- sizes --------------------------------------------------------------------------------------------

    def truncate(self, path: str | None, length: int, fh: int | None = None) -> None:
        """Set a file's size. EFBIG and ENOSPC by the limits, before the disk is touched."""
        handle = self._handles.get(fh) if fh is not None else None
        if isinstance(handle, FileHandle) and handle.writer:
            self._truncate(handle.descriptor, handle.node, length)
            return
        if path is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        with self._at(path, write=True) as (directory, name):
            descriptor = paths.open_regular(directory, name, os.O_WRONLY)
        try:
            node = self._nodes.get(os.fstat(descriptor))
            self._nodes.open(node, writer=True)
            try:
                self._truncate(descriptor, node, length)
            finally:
                self._closed(node, writer=True)
        finally:
            os.close(descriptor)

    def _truncate(self, descriptor: int, node: Node, length: int) -> None:
        with node.growth:
            self._reserve(node, length)
            try:
                os.ftruncate(descriptor, length)
            finally:
                self._nodes.changed(node, os.fstat(descriptor).st_size)

    def _reserve(self, node: Node, end: int, *, written: bool = False) -> None:
        try:
            self._nodes.reserve(node, end, written=written)
        except (ResultTooLarge, VolumeFull) as error:
            what = "a file was cut off" if written else "a write was refused"
            self._volume.report(type(error).__name__, None, f"{what}: {error}")
            raise

    def statfs(self, path: str) -> os.statvfs_result:
        """The spool's disk, with the volume's limit where that is nearer."""
        disk = os.fstatvfs(self._root)
        limit = self._volume.settings.volume_size_limit
        values = list(disk)
        free = self._nodes.free() // disk.f_frsize
        for index, most in ((2, limit // disk.f_frsize), (3, free), (4, free)):
            values[index] = min(values[index], most)
        return os.statvfs_result([*values, disk.f_fsid])
