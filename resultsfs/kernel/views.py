"""What collectors are shown under a result's name: a node of its own for each, with the publication's size.

The kernel caches by node. So a collector that looks a result up is told another node than everybody else, and
neither its short size nor its content ever mixes with the file's own. Names of results are told without a time
for which they hold, so the kernel asks at each walk. A collector that reaches the file by another name than a result's
(through a link) opens the common node, and reads past the cache.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

from resultsfs.collector import Collector
from resultsfs.kernel.notes import Notes

_FIRST = 0xFFFF << 48  # beyond all inode numbers of disks
_FOR_EVER = 1 << 62


@dataclass(slots=True)
class View:
    """One collector's node for one result. `found` are the file's attributes when it was looked up, for when its name is
    gone; `size` is the publication's in bytes, None until it is known."""

    nodeid: int
    path: str
    collector: Collector
    found: os.stat_result
    lookups: int = 0
    size: int | None = None


class Views:
    """All views of one mount. Used by one thread."""

    def __init__(self) -> None:
        self._numbers = itertools.count(_FIRST)
        self.notes: Notes | None = None
        self._by_node: dict[int, View] = {}
        self._by_asker: dict[tuple[Collector, str], View] = {}
        self._writers: set[tuple[Collector, str]] = set()

    def __len__(self) -> int:
        return len(self._by_node)

    def begin(self, notes: Notes, server: int) -> None:
        """Note what is told; views have numbers that no server before this one has given."""
        self.notes = notes
        self._numbers = itertools.count(_FIRST + (server << 24))

    def inherit(self, notes: Notes) -> None:
        """Take over what a predecessor told. Such a view stays: how often the kernel was told of it is not known."""
        for nodeid, (path, collector, found) in notes.views.items():
            view = View(nodeid, path, collector, found, lookups=_FOR_EVER)
            self._by_node[nodeid] = self._by_asker[collector, path] = view
        self._writers = set(notes.writers)

    def get(self, nodeid: int) -> View | None:
        """The view that a node is; None for all others."""
        return self._by_node.get(nodeid)

    def of(self, collector: Collector, path: str, found: os.stat_result) -> View | None:
        """The view that a collector's lookup of a result finds; None when it is about to change the file itself."""
        asker = (collector, path)
        if asker in self._writers:
            return None
        view = self._by_asker.get(asker)
        if view is None:
            view = self._by_asker[asker] = View(next(self._numbers), path, collector, found)
            self._by_node[view.nodeid] = view
            if self.notes is not None:
                self.notes.view(view.nodeid, path, collector, found)
        return view

    def writes(self, view: View) -> None:
        """A collector wants to change the file: its next lookups, which follow at once, find the common node."""
        self._writers.add((view.collector, view.path))
        if self.notes is not None:
            self.notes.writes(view.path, view.collector)

    @property
    def expects_writers(self) -> bool:
        """Whether some collector was sent to look the file itself up."""
        return bool(self._writers)

    def wrote(self, collector: Collector, path: str) -> None:
        """The collector has come back with the common node."""
        if (collector, path) in self._writers:
            self._writers.remove((collector, path))
            if self.notes is not None:
                self.notes.wrote(path, collector)

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel lets go of `count` lookups of a view."""
        view = self._by_node.get(nodeid)
        if view is not None:
            view.lookups -= count
            if view.lookups <= 0:
                del self._by_node[nodeid], self._by_asker[view.collector, view.path]
