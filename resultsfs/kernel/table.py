"""Nodes as the kernel knows them: by number, with the names that lead to them and how often they were looked up.

A node's number is its inode's on the spool's disk, so it outlives a server. The filesystem goes by path: a node's
path is any of its names below its parent's path, so a renamed directory takes its children along.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from resultsfs.kernel.inherited import Inherited, Name
from resultsfs.kernel.protocol import ROOT_ID

ROOT_ALIAS = 1 << 59
"""For a file whose inode number is the protocol's root's."""


@dataclass(slots=True)
class Entry:
    """One node. `generation` tells an inode number's users apart, None while a predecessor's is not known; `handles`
    counts open files.

    `hidden`: its last name is gone, and the file is kept under a hidden one while it is open. `backing_id` stands
    while a handle passes through to the disk, `cached` while one goes through the page cache: never both.
    """

    nodeid: int
    generation: int | None
    lookups: int = 0
    children: int = 0
    handles: int = 0
    hidden: bool = False
    backing_id: int = 0
    cached: bool = False
    names: Sequence[Name] = ()
    """A list once there are several: most nodes have one name, and a volume has many nodes."""


def stale() -> OSError:
    """ESTALE: the kernel names a node that has no name any more, or never had."""
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


class Table:
    """All nodes of one mount. Used by one thread."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {ROOT_ID: Entry(ROOT_ID, 0, lookups=1)}
        self._names: dict[Name, int] = {}
        self._inherited: Inherited | None = None

    def inherit(self, root: int, references: dict[int, str]) -> None:
        """Find nodes that a predecessor told the kernel: below a directory, and `references` by name in `.ref`."""
        self._inherited = Inherited(root, self._names, references, ROOT_ALIAS)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, nodeid: int) -> Entry:
        """A node. Raises OSError ESTALE for one that the kernel was not told of."""
        entry = self._entries.get(nodeid)
        return self._adopt(nodeid) if entry is None else entry

    def _adopt(self, nodeid: int, lookups: int = 1) -> Entry:
        """A predecessor's node, with all its names and the directories they are in. Raises OSError: ESTALE
        without a predecessor, ENOENT for a node that has no name any more.

        `lookups`: the kernel that names a node has been told of it at least once. The rest of what the predecessor
        counted is not known; so a node may be dropped before the kernel has forgotten it, and is then adopted again.
        """
        if self._inherited is None:
            raise stale()
        names: list[tuple[Name, Entry]] = []
        pending = [nodeid]
        while pending:
            current = pending.pop()
            found = self._inherited.take(current)
            entry = self._entries.get(current)
            if entry is None:
                if not found:  # removed, while somebody had it open or stood in it
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                entry = self._entries[current] = Entry(current, None, lookups if current == nodeid else 0)
            names += [(name, entry) for name in found]
            pending += [parent for parent, _ in found if parent not in self._entries]
        for name, entry in names:
            self._bind(name, entry)
        return self._entries[nodeid]

    def at(self, parent: int, name: str) -> Entry | None:
        """The node that has a name, as far as the kernel was told."""
        nodeid = self._names.get((parent, name))
        if nodeid is not None:
            return self._entries[nodeid]
        inherited = None if self._inherited is None else self._inherited.at((parent, name))
        return None if inherited is None else self._adopt(inherited)

    def path(self, nodeid: int) -> str:
        """A path to a node. Raises OSError: ESTALE for an unknown one, ENOENT when its names are gone."""
        parts: list[str] = []
        while nodeid != ROOT_ID:
            entry = self.get(nodeid)
            if not entry.names and self._inherited is not None:
                self._adopt(nodeid)  # it may have others, which only a predecessor was asked for
            if not entry.names:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            nodeid, name = entry.names[0]
            parts.append(name)
        parts.append("")
        return "/".join(reversed(parts)) or "/"

    def child(self, parent: int, name: str) -> str:
        """The path of a name in a directory."""
        return f"/{name}" if parent == ROOT_ID else f"{self.path(parent)}/{name}"

    def found(self, parent: int, name: str, nodeid: int, generation: int) -> Entry:
        """The kernel is told once more that a name leads to a node."""
        entry = self._entries.get(nodeid)
        if entry is None:
            entry = self._other_names(nodeid) or Entry(nodeid, generation)
            self._entries[nodeid] = entry
        if entry.generation is None:
            entry.generation = generation
        if entry.generation != generation:  # the number has been given to another file meanwhile
            for old in list(entry.names):
                self._unbind(old, entry)
            entry.generation, entry.hidden = generation, False
        entry.lookups += 1
        self._bind((parent, name), entry)
        return entry

    def _other_names(self, nodeid: int) -> Entry | None:
        """A node that a predecessor knew by other names too; how often the kernel was told of it before is not known."""
        if self._inherited is None or not self._inherited.has(nodeid):
            return None
        return self._adopt(nodeid, 0)

    def _bind(self, name: Name, entry: Entry) -> None:
        before = self._names.get(name)
        if before == entry.nodeid:
            return
        if before is not None:
            self._unbind(name, self._entries[before])
        if self._inherited is not None:
            self._inherited.drop(name)
        self._names[name] = entry.nodeid
        if not entry.names:
            entry.names = (name,)
        elif isinstance(entry.names, list):
            entry.names.append(name)
        else:
            entry.names = [*entry.names, name]
        self.get(name[0]).children += 1

    def _unbind(self, name: Name, entry: Entry) -> None:
        self._drop_if_unused(self._cut(name, entry))

    def _cut(self, name: Name, entry: Entry) -> Entry:
        del self._names[name]
        if isinstance(entry.names, list):
            entry.names.remove(name)
        else:
            entry.names = ()
        parent = self._entries[name[0]]
        parent.children -= 1
        return parent

    def gone(self, parent: int, name: str) -> None:
        """A name has been removed."""
        entry = self.at(parent, name)
        if entry is not None:
            self._unbind((parent, name), entry)
            self._drop_if_unused(entry)

    def named(self, nodeid: int) -> bool:
        """Whether a node has a name."""
        try:
            self.path(nodeid)
        except OSError:
            return False
        return True

    def nameless(self, nodeid: int) -> Entry:
        """A node of a predecessor's without a name."""
        entry = self._entries[nodeid] = Entry(nodeid, None, 1)
        return entry

    def hide(self, entry: Entry, name: str) -> None:
        """A node's last name is gone; it is kept under a hidden name, which lies nowhere in the tree."""
        entry.hidden = True
        self._bind((ROOT_ID, name), entry)

    def moved(self, parent: int, name: str, new_parent: int, new_name: str) -> None:
        """A name has been renamed, and replaced what was there."""
        if (parent, name) == (new_parent, new_name):
            return
        entry = self.at(parent, name)
        replaced = self.at(new_parent, new_name)
        if entry is replaced is not None:
            return  # two names of one file: the disk leaves both
        self.gone(new_parent, new_name)
        if entry is not None:
            self._bind((new_parent, new_name), entry)
            self._unbind((parent, name), entry)

    def exchanged(self, first: Name, second: Name) -> None:
        """Two names have changed places."""
        one, other = self.at(*first), self.at(*second)
        for name, entry in ((first, one), (second, other)):
            if entry is not None:
                self._cut(name, entry)
        for name, entry in ((second, one), (first, other)):
            if entry is not None:
                self._bind(name, entry)

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel lets go of `count` lookups of a node."""
        entry = self._entries.get(nodeid)
        if entry is not None and nodeid != ROOT_ID:
            entry.lookups -= count
            self._drop_if_unused(entry)

    def _drop_if_unused(self, entry: Entry) -> None:
        pending = [entry]  # not by recursion: trees are as deep as a step builds them
        while pending:
            entry = pending.pop()
            if entry.lookups > 0 or entry.children or entry.handles or entry.nodeid == ROOT_ID:
                continue
            if self._entries.pop(entry.nodeid, None) is not None:
                names = list(entry.names)
                pending += [self._cut(name, entry) for name in names]
                if self._inherited is not None:
                    for name in names:
                        self._inherited.give_back(name, entry.nodeid)
