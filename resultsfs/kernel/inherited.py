"""Nodes that a predecessor told the kernel: found again in the spool by their inode numbers.

The tree is scanned once, when the first node is asked for that the table does not know, and kept in step with the
table after that: a name is either here or there. What has not been needed for a minute is let go of, and scanned
again if need be. So the kernel may forget what it likes, and what it forgets early is found again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator

from resultsfs.kernel.protocol import ROOT_ID
from resultsfs.paths import uncollected
from resultsfs.reference import REF_DIR
from resultsfs.refs import REF_INODE

Name = tuple[int, str]
"""A parent's number, and a name in it."""
_KEPT = 60.0
"""Seconds for which the names are kept unused."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Inherited:
    """The names below a directory that the table does not hold (`known`), and those in `.ref` (`references`)."""

    def __init__(self, root: int, known: Container[Name], references: dict[int, str], alias: int) -> None:
        self._root = root
        self._known = known
        self._references = references
        self._alias = alias  # of a file whose inode number is the protocol's root's
        self._names: dict[int, list[Name]] = {}
        self._nodes: dict[Name, int] = {}
        self._used: float | None = None  # None while nothing is kept

    def take(self, nodeid: int) -> list[Name]:
        """All names of a node, which are the table's from now on; none for an unknown one. Raises OSError."""
        if not self._fresh():
            with uncollected():
                self._load()
        names = self._names.pop(nodeid, [])
        for name in names:
            del self._nodes[name]
        return names

    def _load(self) -> None:
        for parent, text, inode in _scan(self._root):
            self.put((parent, text), inode if inode != ROOT_ID else self._alias)
        self.put((ROOT_ID, REF_DIR), REF_INODE)
        for number, text in self._references.items():
            self.put((REF_INODE, text), number)
        self._used = time.monotonic()

    def _fresh(self) -> bool:
        now = time.monotonic()
        if self._used is not None and now - self._used < _KEPT:
            self._used = now
            return True
        if self._used is not None:
            self._names, self._nodes, self._used = {}, {}, None
        return False

    def has(self, nodeid: int) -> bool:
        """Whether names of a node are here, without looking for them."""
        return nodeid in self._names

    def at(self, name: Name) -> int | None:
        """The node that has a name, if the name is here."""
        return self._nodes.get(name) if self._used is not None and self._fresh() else None

    def put(self, name: Name, nodeid: int) -> None:
        """A name, which is not the table's any more."""
        if name not in self._known and self._nodes.setdefault(name, nodeid) == nodeid:
            self._names.setdefault(nodeid, []).append(name)

    def give_back(self, name: Name, nodeid: int) -> None:
        """The table lets go of a name that is still on the disk."""
        if self._used is not None:
            self.put(name, nodeid)

    def drop(self, name: Name) -> None:
        """A name is the table's from now on."""
        nodeid = self._nodes.pop(name, None)
        if nodeid is not None:
            names = self._names[nodeid]
            names.remove(name)
            if not names:
                del self._names[nodeid]


def _scan(root: int) -> Iterator[tuple[int, str, int]]:
    """Parent's node, name and inode number of everything below a directory, however deep. Raises OSError."""
    current = os.open(".", _DIRECTORY, dir_fd=root)
    try:
        pending = [_listed(current)]
        yield from ((ROOT_ID, name, inode) for name, inode, _ in pending[-1])
        while pending:
            if not pending[-1]:
                pending.pop()
                if pending:
                    current = _step(current, "..")
                continue
            name, inode, directory = pending[-1].pop()
            if directory:
                current = _step(current, name)
                pending.append(_listed(current))
                yield from ((inode, inner, number) for inner, number, _ in pending[-1])
    finally:
        os.close(current)


def _step(current: int, name: str) -> int:
    following = os.open(name, _DIRECTORY, dir_fd=current)
    os.close(current)
    return following


def _listed(directory: int) -> list[tuple[str, int, bool]]:
    with os.scandir(directory) as entries:
        return [(entry.name, entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries]
