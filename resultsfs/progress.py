"""How far contents have got on their way to the store, over all attempts.

What a connection has taken is no proof: a store that takes bytes and fails takes the same ones at every attempt, and
would look alive for ever. So a byte that was sent before counts only when the store has acknowledged it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

KEPT = 1024
"""Requests that are remembered; those in flight and those that failed, longest ago forgotten first."""


class Progress:
    """Counts what is new of each request, named by path and part. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._furthest: OrderedDict[tuple[str, int], int] = OrderedDict()

    def taken(self, path: str, part: int, count: int) -> int:
        """The connection has taken the first `count` bytes: how many of them no attempt got to before."""
        with self._lock:
            before = self._furthest.pop((path, part), 0)
            self._furthest[path, part] = max(before, count)
            if len(self._furthest) > KEPT:
                self._furthest.popitem(last=False)
        return max(0, count - before)

    def acknowledged(self, path: str, part: int, size: int) -> int:
        """The store has all `size` bytes: how many were not counted yet. The request is forgotten."""
        with self._lock:
            return max(0, size - self._furthest.pop((path, part), 0))
