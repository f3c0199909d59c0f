"""One lock a key, tried and never waited for: whoever comes second is told to come again."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from resultsfs.errors import ResultsError


class Busy(ResultsError):
    """Somebody else is at work on the same thing."""

    default_errno = errno.EBUSY


class Locks:
    """The keys that somebody is at work on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[str] = set()

    @contextmanager
    def held(self, *keys: str) -> Iterator[None]:
        """Hold all these keys, or none. Raises Busy when one of them is held."""
        with self._lock:
            for key in keys:
                if key in self._held:
                    raise Busy(f"another request for {key} is under way")
            self._held.update(keys)
        try:
            yield
        finally:
            with self._lock:
                self._held.difference_update(keys)
