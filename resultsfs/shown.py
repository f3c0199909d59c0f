"""Which collectors something is kept for, and until when: they live, or a process that they left has their files open."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path

from resultsfs import frozen
from resultsfs.collector import Collector, is_gone

log = logging.getLogger(__name__)


class Shown:
    """The collectors of one volume. From any thread."""

    def __init__(self, session: Path) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._open: Counter[Collector] = Counter()
        self._known: set[Collector] = set()

    def opened(self, collector: Collector) -> None:
        """A publication of a collector's is open once more."""
        with self._lock:
            self._open[collector] += 1

    def closed(self, collector: Collector) -> None:
        """And once less."""
        with self._lock:
            self._open[collector] -= 1
            if self._open[collector] <= 0:
                del self._open[collector]

    def matters(self, collector: Collector) -> bool:
        """Whether another server would have to know what a collector was shown."""
        return self._open[collector] > 0 or not is_gone(collector)

    def came(self, collector: Collector) -> None:
        """Something is kept for a collector from now on; for those that are gone nothing is any more. One thread at a time."""
        for known in [known for known in self._known if known != collector and not self.matters(known)]:
            try:
                frozen.forget(self._session, known)
            except OSError as error:
                log.warning("what collector %d was shown stays on the disk: %s", known.pid, error.strerror)
            self._known.discard(known)
        self._known.add(collector)
