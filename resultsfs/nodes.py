"""Nodes: what the daemon knows of a volume's regular files, by inode, and the sizes they are held to."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from resultsfs.disk import Disk, Unbounded
from resultsfs.errors import ResultTooLarge, VolumeFull
from resultsfs.paths import uncollected
from resultsfs.settings import Settings
from resultsfs.units import format_size


@dataclass(slots=True)
class Node:
    """One regular file: its size in bytes, how many handles have it open, and how often it was written to.

    `digest` is the SHA-256 (hex) of the content in one state, with that state. `setid`: set-id bits stand.
    `setid_since`: when the mode was set (ctime, nanoseconds). `exceeded`: the limit beyond which it was written past the daemon, and to which it was cut. `mapped`: a writer
    may store into it through a mapping, of which nothing tells: neither daemon nor change time. `seen`: size and
    change time (nanoseconds) when it was last looked at. `growth` is held while its size may change, so that what is counted is what is on the disk.
    """

    inode: int
    size: int = 0
    handles: int = 0
    writers: int = 0
    generation: int = 0
    linked: bool = True
    setid: bool = False
    mapped: bool = False
    setid_since: int = 0
    digest: tuple[object, str] | None = None
    exceeded: OSError | None = None
    seen: tuple[int, int] | None = None
    growth: threading.Lock = field(default_factory=threading.Lock)


class Nodes:
    """All regular files of a volume; counts their sizes together against the limits, and those of the disk; and all
    entries of its directories, whatever they are.

    Its lock guards the counts only and is never held over a system call that can block on anything but this
    disk. Sizes are apparent sizes: a sparse file counts whole.
    """

    def __init__(self, settings: Settings, disk: Disk | None = None) -> None:
        self._settings = settings
        self._disk = disk if disk is not None else Unbounded()
        self._lock = threading.Lock()
        self._nodes: dict[int, Node] = {}
        self._total = 0
        self._entries = 0

    @property
    def total(self) -> int:
        """Bytes of all files together."""
        return self._total

    @property
    def entries(self) -> int:
        """Names of files, directories and all else; not those of files that are kept while they are open."""
        return self._entries

    def may_make(self, *, inode: bool = True) -> None:
        """Raise VolumeFull, NodeDiskFull when there must not be another entry, or not another `inode`."""
        if self._entries >= self._settings.volume_file_limit:
            raise VolumeFull(
                f"the volume has {self._entries:,} files, directories and links, and volume-file-limit is "
                f"{self._settings.volume_file_limit:,}: remove some, or raise the setting"
            )
        self._disk.may_make(self._entries, inode=inode)

    def made(self, change: int = 1) -> None:
        """There are so many entries more, or less."""
        with self._lock:
            self._entries += change
            self._disk.made(change)

    def scan(self, root: int) -> None:
        """Take in what lies in the spool already. Raises OSError."""
        with uncollected():
            for found in _entries(root):
                self.made()
                if stat.S_ISREG(found.st_mode):
                    self.get(found)

    def get(self, found: os.stat_result) -> Node:
        """The node of a regular file, made when it is new; one that is not counted when it has no name left."""
        with self._lock:
            node = self._nodes.get(found.st_ino)
            if node is None:
                node = Node(found.st_ino, found.st_size, linked=found.st_nlink > 0)
                if node.linked:
                    self._nodes[found.st_ino] = node
                    self._grew(found.st_size)
            elif node.handles == 0:  # the disk knows better than a count that nobody keeps
                self._grew(found.st_size - node.size)
                node.size = found.st_size
            node.setid = bool(found.st_mode & (stat.S_ISUID | stat.S_ISGID))
            return node

    def find(self, inode: int) -> Node | None:
        """The node of an inode, if it is known."""
        return self._nodes.get(inode)

    def open(self, node: Node, *, writer: bool) -> None:
        """Count a handle."""
        with self._lock:
            node.handles += 1
            node.writers += writer

    def close(self, node: Node, *, writer: bool) -> bool:
        """Count a handle off; True when it was the last writer's."""
        with self._lock:
            node.handles -= 1
            node.writers -= writer
            self._drop_if_gone(node)
            return writer and node.writers == 0

    def unlinked(self, inode: int) -> None:
        """The file's last name is gone; its bytes count until the last handle is closed."""
        with self._lock:
            node = self._nodes.get(inode)
            if node is not None:
                node.linked = False
                self._drop_if_gone(node)

    def _drop_if_gone(self, node: Node) -> None:
        if not node.linked and node.handles == 0 and self._nodes.pop(node.inode, None) is not None:
            self._grew(-node.size)

    def _grew(self, change: int) -> None:
        self._total += change
        self._disk.counted(change)

    def close_all(self) -> None:
        """The volume is no longer served here: its files are counted no more."""
        with self._lock:
            self._disk.counted(-self._total)
            self._disk.made(-self._entries)
            self._disk = Unbounded()

    def reserve(self, node: Node, end: int, *, written: bool = False) -> None:
        """Make room for a write or truncation up to `end` bytes; `written`: for one that is on the disk already. Raises
        ResultTooLarge, VolumeFull, NodeDiskFull."""
        with self._lock:
            growth = end - node.size
            if growth <= 0:
                return
            if end > self._settings.result_size_limit:
                raise ResultTooLarge(
                    f"a file of {format_size(end)} would exceed result-size-limit "
                    f"({format_size(self._settings.result_size_limit)})"
                )
            if self._total + growth > self._settings.volume_size_limit:
                raise VolumeFull(
                    f"{format_size(self._total + growth)} of files would exceed volume-size-limit "
                    f"({format_size(self._settings.volume_size_limit)})"
                )
            self._disk.check(growth, written=written)
            node.size = end
            self._grew(growth)

    def room(self, node: Node) -> int:
        """The size up to which a file may grow, which is never less than what it has been counted with."""
        with self._lock:
            free = node.size + self.free()
            return max(node.size, min(free, self._settings.result_size_limit))

    def free(self) -> int:
        """Bytes by which all files together may grow."""
        return max(0, min(self._settings.volume_size_limit - self._total, self._disk.room()))

    def changed(self, node: Node, size: int) -> None:
        """A write or truncation is done, or failed; the file now has `size` bytes."""
        with self._lock:
            node.generation += 1
            self._grew(size - node.size)
            node.size = size


def _entries(root: int) -> Iterator[os.stat_result]:
    """Everything in a tree that nobody changes; goes as deep as a step may have built, in memory for the names of the
    directories alone."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.open(".", flags, dir_fd=root)
    try:
        pending: list[list[str]] = [[]]
        yield from _listed(current, pending[-1])
        while True:
            if pending[-1]:
                step = os.open(pending[-1].pop(), flags, dir_fd=current)
                os.close(current)
                current = step
                pending.append([])
                yield from _listed(current, pending[-1])
            else:
                pending.pop()
                if not pending:
                    return
                step = os.open("..", flags, dir_fd=current)
                os.close(current)
                current = step
    finally:
        os.close(current)


def _listed(directory: int, directories: list[str]) -> Iterator[os.stat_result]:
    """What is in a directory; the names of those that are directories go to a list."""
    with os.scandir(directory) as entries:
        for entry in entries:
            # not the entry's own stat: that goes by a path, which may be too long
            yield os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
