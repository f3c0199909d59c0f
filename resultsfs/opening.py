"""Open files, from their opening on: plain ones, and what collectors read; and those that a predecessor had opened."""

from __future__ import annotations

import errno
import os
import stat
from typing import Protocol

from resultsfs import paths
from resultsfs.collection import Collection
from resultsfs.collector import Collector, is_dying
from resultsfs.handles import FileHandle, LostHandle, PublicationHandle
from resultsfs.nodes import Node
from resultsfs.tree import Tree

# What the kernel has acted on already, or acts on itself. O_APPEND comes with each write, for it can be changed
# while the file is open, and a shared mapping of an appending handle is still written back to where it belongs.
NOT_OURS = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_DIRECT | os.O_NOCTTY | os.O_ASYNC | os.O_APPEND


class FileInfo(Protocol):
    """The kernel's open file: `flags` in, `fh` and `direct_io` out."""

    flags: int
    fh: int
    direct_io: int


class Opening(Tree):
    """How handles come to be."""

    def publication(self, path: str, collector: Collector) -> tuple[Collection, str, bytes] | None:
        """What a collector reads at a path, with the result's name; None where that is no result.

        Waits until what is spilled is durable, or the thread that asks is dying. Raises OSError as
        `Collection.read`.
        """
        pid = self._caller().pid
        collection = self._volume.collection(collector)
        name = collection.name_at(path)
        return None if name is None else (collection, name, collection.read(name, lambda: is_dying(pid)))

    def open_publication(self, path: str, collector: Collector, info: FileInfo) -> bool:
        """Open what a collector reads at a path; False where that is no result."""
        found = self.publication(path, collector)
        if found is None:
            return False
        collection, name, content = found
        node = self._node_at(path)
        self._volume.shown.opened(collector)
        info.fh = self._handles.add(
            PublicationHandle(content, lambda: collection.delivered(name), node, collector, name)
        )
        info.direct_io = 1
        return True

    def _node_at(self, path: str) -> Node | None:
        """The file that has a path now, counted as open."""
        try:
            with self._at(path) as (directory, name):
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return None  # removed since the collector's snapshot, which is all that it reads
        if not stat.S_ISREG(found.st_mode):
            return None
        node = self._nodes.get(found)
        self._nodes.open(node, writer=False)
        return node

    def _opened(self, descriptor: int, info: FileInfo) -> os.stat_result:
        found = os.fstat(descriptor)
        node = self._nodes.get(found)
        writer = info.flags & os.O_ACCMODE != os.O_RDONLY
        # Write-only handles go past the page cache: half the copies, and no question after capabilities with
        # each write. Not where set-id bits stand, which only the cached way drops when the file is written.
        write_only = info.flags & os.O_ACCMODE == os.O_WRONLY
        # A file with two names has two page caches in libfuse 2: use neither.
        info.direct_io = int((write_only and not node.setid) or found.st_nlink > 1)
        self._nodes.open(node, writer=writer)
        info.fh = self._handles.add(FileHandle(descriptor, node, writer))
        return found

    # -- a predecessor's handles --------------------------------------------------------------------------

    def handle(self, fh: int) -> object:
        """What a number stands for. Raises OSError EBADF."""
        return self._handles.get(fh)

    def begin(self, first: int) -> None:
        """Number handles from `first` on: another server than those before."""
        self._handles.begin(first)

    def reopen(self, fh: int, path: str, flags: int) -> None:
        """Open a file as a predecessor did. Raises OSError."""
        with self._at(path) as (directory, name):
            descriptor = paths.reopen(directory, name, flags & ~NOT_OURS)
        node = self._nodes.get(os.fstat(descriptor))
        writer = flags & os.O_ACCMODE != os.O_RDONLY
        self._nodes.open(node, writer=writer)
        self._handles.put(fh, FileHandle(descriptor, node, writer))

    def reopen_publication(self, fh: int, path: str, collector: Collector, name: str) -> None:
        """Go on with what a collector was shown. Raises OSError EIO when that is not known any more."""
        collection = self._volume.collection(collector)
        content = collection.published(name)
        if content is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        handle = PublicationHandle(content, lambda: collection.delivered(name), self._node_at(path), collector, name)
        self._volume.shown.opened(collector)
        self._handles.put(fh, handle)

    def reopen_reference(self, fh: int, path: str) -> None:
        """Open content by reference again, which is done when it is read. Raises OSError ENOENT."""
        self._handles.put(fh, self._references.reopen(path))

    def hidden_again(self, name: str, inode: int) -> None:
        """A file that a predecessor hid."""
        self._hidden.add(name, inode, 0)

    def exceeded_before(self, fh: int, error: OSError) -> None:
        """A file that a predecessor cut to a limit: its writers are told when they close."""
        handle = self._handles.get(fh)
        if isinstance(handle, FileHandle):
            handle.node.exceeded = error

    def lose(self, fh: int) -> None:
        """A handle that cannot be opened again: all that is asked of it fails with EIO."""
        self._handles.put(fh, LostHandle())
