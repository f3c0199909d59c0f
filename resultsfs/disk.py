"""The disk of a node's spools: what all volumes together may take of it, and what must stay free.

Three bounds: `node-spool-limit` on the bytes of the volumes' files, `node-file-limit` on their number, for each takes memory
of the process that serves it, and `node-disk-reserve` on what is free, whoever takes it: bytes, and inodes where the disk
has a number of them. Before a write is refused, content that is fetched by reference, and is in the store anyway, makes
room.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

from resultsfs.errors import NodeDiskFull
from resultsfs.settings import Settings
from resultsfs.units import format_size

FEW = 1000
"""Entries that a volume may have however many all volumes together have."""


class Disk(Protocol):
    """Where the sizes of all volumes' files are counted, in bytes."""

    def check(self, growth: int, *, written: bool = False) -> None:
        """Raise NodeDiskFull when files must not grow by so much, or not have grown: `written`, past this process."""
        ...

    def spare(self, count: int) -> None:
        """Raise NodeDiskFull when there is no room to keep so much of what is in the store."""
        ...

    def may_make(self, own: int, *, inode: bool = True) -> None:
        """Raise NodeDiskFull when a volume that has `own` entries must not make another, or not take another inode; an
        inode that may be taken is counted."""
        ...

    def made(self, change: int) -> None:
        """There are so many entries more, or less."""
        ...

    def counted(self, change: int) -> None:
        """Files have grown, or shrunk."""
        ...

    def room(self) -> int:
        """How much files may grow."""
        ...


class Unbounded:
    """A disk that nobody watches: it bounds itself."""

    def check(self, growth: int, *, written: bool = False) -> None:
        """Nothing is refused."""

    def spare(self, count: int) -> None:
        """Nothing is refused."""

    def may_make(self, own: int, *, inode: bool = True) -> None:
        """Nothing is refused."""

    def made(self, change: int) -> None:
        """Nothing is counted."""

    def counted(self, change: int) -> None:
        """Nothing is counted."""

    def room(self) -> int:
        """More than any file has."""
        return 1 << 62


class NodeDisk:
    """The disk under `directory`, for all volumes of one process.

    `evict(count)` is called to free about so many bytes before a write is refused; it returns how many it freed.
    `settings` gives the settings of now. Safe to use from several threads; looks at the disk only when what it
    last saw is used up, or when it is told to.
    """

    def __init__(self, directory: str, settings: Callable[[], Settings], evict: Callable[[int], int]) -> None:
        self._directory = directory
        self._settings = settings
        self._evict = evict
        self._lock = threading.Lock()
        self._used = self._entries = 0
        self._left = 0  # bytes that may be taken until the disk must be looked at again
        self._free = self._reserve = 0
        self._inodes: int | None = None  # that may be taken until the disk must be looked at again; None: no limit
        self._measure()

    @property
    def used(self) -> int:
        """Bytes of all volumes' files."""
        return self._used

    @property
    def entries(self) -> int:
        """Files, directories and links of all volumes."""
        return self._entries

    @property
    def free(self) -> int:
        """Bytes that were free when the disk was last looked at."""
        return self._free

    @property
    def reserve(self) -> int:
        """Bytes that must stay free."""
        return self._reserve

    @property
    def full(self) -> bool:
        """Whether writes are refused."""
        return self.room() <= 0

    def look(self) -> None:
        """See how much is free; make room if that is too little."""
        with self._lock:
            self._look(0)

    def check(self, growth: int, *, written: bool = False) -> None:
        """Raise NodeDiskFull, which says by which setting, when files must not grow by so much, or not have grown."""
        with self._lock:
            limit = self._settings().node_spool_limit
            if limit and self._used + growth > limit:
                raise NodeDiskFull(
                    f"{format_size(self._used + growth)} of files of all volumes of this node would exceed "
                    f"node-spool-limit ({format_size(limit)})"
                )
            if written:
                self._look(0)
                self._left += growth  # as it was before: what is measured has the growth in it
            self._spare(growth, looked=written)

    def spare(self, count: int) -> None:
        """Raise NodeDiskFull when there is no room to keep so much of what is in the store."""
        with self._lock:
            self._spare(count)

    def _spare(self, count: int, *, looked: bool = False) -> None:
        if count > self._left and not looked:
            self._look(count)
        if count > self._left:
            raise NodeDiskFull(
                f"{format_size(count)} more would leave too little of the node's disk: {format_size(self._free)} are "
                f"free, and node-disk-reserve ({self._settings().node_disk_reserve}%) keeps {format_size(self._reserve)}"
            )

    def may_make(self, own: int, *, inode: bool = True) -> None:
        """Raise NodeDiskFull, which says by which setting, when a volume that has `own` entries must not make another, or
        not take another inode; an inode that may be taken is counted. A quarter of `node-file-limit` is kept for volumes
        with few entries."""
        with self._lock:
            limit = self._settings().node_file_limit
            if self._entries >= (limit if own < FEW else limit - limit // 4):
                raise NodeDiskFull(
                    f"all volumes of this node have {self._entries:,} files, directories and links, this one {own:,}; of "
                    f"node-file-limit ({limit:,}) a quarter is kept for volumes with fewer than {FEW:,}: remove some, "
                    "or raise the setting and the mounter's memory limit"
                )
            if not inode:
                return
            if self._inodes is not None and self._inodes <= 0:
                self._measure()
            if self._inodes is None:
                return
            if self._inodes <= 0:
                raise NodeDiskFull(
                    f"another file would leave too few of the inodes of the node's disk, of which node-disk-reserve "
                    f"({self._settings().node_disk_reserve}%) keeps some: remove files there, or lower the setting"
                )
            self._inodes -= 1

    def made(self, change: int) -> None:
        """There are so many entries more, or less."""
        with self._lock:
            self._entries += change

    def counted(self, change: int) -> None:
        """Files have grown, or shrunk, by so many bytes."""
        with self._lock:
            self._used += change
            if change > 0:
                self._left -= change

    def room(self) -> int:
        """How much files may grow, as far as is known without looking."""
        with self._lock:
            limit = self._settings().node_spool_limit
            return min(self._left, limit - self._used) if limit else self._left

    def _look(self, wanted: int) -> None:
        self._measure()
        if (self._left < wanted or self._left <= 0) and self._evict(max(wanted - self._left, 1)):
            self._measure()

    def _measure(self) -> None:
        found = os.statvfs(self._directory)
        self._free = found.f_bavail * found.f_frsize
        self._reserve = found.f_blocks * found.f_frsize * self._settings().node_disk_reserve // 100
        self._left = self._free - self._reserve
        kept = found.f_files * self._settings().node_disk_reserve // 100
        self._inodes = found.f_favail - kept if found.f_files else None  # btrfs has no such limit, and says 0
