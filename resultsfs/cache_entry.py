"""One content in the node cache, and waiting for it."""

from __future__ import annotations

import threading

from resultsfs.errors import ResultsError
from resultsfs.store_names import Key


class Entry:
    """One content: on its way, verified, or failed. `readers` belongs to the cache and its lock."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.readers = 0
        self.size = 0
        self.path = ""
        self.verified = False
        self._arrived = 0
        self._started = False
        self._error: ResultsError | None = None
        self._changed = threading.Condition()

    def start(self, path: str, size: int) -> None:
        """The size is known, and where the bytes will be."""
        with self._changed:
            self.path, self.size, self._started = path, size, True
            self._changed.notify_all()

    def arrive(self, count: int) -> None:
        """Another `count` bytes can be read."""
        with self._changed:
            self._arrived += count
            self._changed.notify_all()

    def finish(self, path: str) -> None:
        """All is there, verified, at its final place."""
        with self._changed:
            self.path, self._arrived, self.verified = path, self.size, True
            self._changed.notify_all()

    def fail(self, error: ResultsError) -> None:
        """No more will come; the first reason counts."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def wait_for_size(self) -> None:
        """Wait until `start`; raises why it failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._started or self._error)
            self._check()

    def wait_for(self, end: int) -> None:
        """Wait until the bytes up to `end` can be read; raises why they will not."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived >= end or self._error)
            self._check()

    def _check(self) -> None:
        if self._error is not None:  # a copy: several threads raise it
            raise type(self._error)(self._error.message, self._error.errno)
