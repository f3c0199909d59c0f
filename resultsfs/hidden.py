"""Hidden files: unlinked while open. libfuse 2 renames them; the spool keeps them apart, so that nobody sees them.

libfuse asks for the renaming as if a user had (`.fuse_hidden` and 16 hex digits, in the same directory), and
for the removal when the last handle is closed, unless the directory is gone by then. So these names belong to
libfuse alone: making one is refused.
"""

from __future__ import annotations

import re
import threading

_NAME = re.compile(r"\.fuse_hidden[0-9a-f]{16}")


def is_hidden_name(name: str) -> bool:
    """Whether a name is one of those that libfuse gives to open files that are unlinked."""
    return _NAME.fullmatch(name) is not None


class Hidden:
    """Which hidden names there are: the inode behind each, and that of the directory it was in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, tuple[int, int]] = {}
        self._links: dict[int, int] = {}
        self._orphans: set[str] = set()

    def add(self, name: str, inode: int, directory: int) -> None:
        """A file has become hidden."""
        with self._lock:
            self._names[name] = (inode, directory)
            self._links[inode] = self._links.get(inode, 0) + 1

    def remove(self, name: str) -> None:
        """A hidden name is gone."""
        with self._lock:
            self._orphans.discard(name)
            inode, _directory = self._names.pop(name, (0, 0))
            left = self._links.pop(inode, 0) - 1
            if left > 0:
                self._links[inode] = left

    def links(self, inode: int) -> int:
        """How many of a file's names are hidden."""
        return self._links.get(inode, 0) if self._links else 0

    def directory_gone(self, directory: int) -> None:
        """A directory was removed: libfuse will not find the hidden files that were in it any more."""
        with self._lock:
            self._orphans.update(name for name, (_inode, parent) in self._names.items() if parent == directory)

    def orphans(self, inode: int) -> list[str]:
        """The names of a file that nobody but us will remove."""
        with self._lock:
            return [name for name in self._orphans if self._names[name][0] == inode]
