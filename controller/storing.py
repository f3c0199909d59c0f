"""Whether the store answers this replica, for whoever asks: `resultsfs doctor --cluster` does, through the API server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from controller.kube.resources import Tree
from resultsfs.errors import ResultsError
from resultsfs.store import Store

LIFE = 5.0
"""Seconds for which an answer is given again: the port is open to the whole cluster, and each look costs requests."""
_log = logging.getLogger(__name__)


class Looking:
    """Looks at the store by a small object that it writes, reads and deletes. Thread-safe."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._found: Tree = {}
        self._until = -1.0

    def __call__(self) -> Tree:
        """`answers`, and in milliseconds `written` and `read`, or the `cause` (an error's name).

        What the store said has its URL in it, and is for the log alone.
        """
        with self._lock:
            if time.monotonic() >= self._until:
                self._found = self._look()
                self._until = time.monotonic() + LIFE
            return self._found

    def _look(self) -> Tree:
        try:
            probe = self._store().probe()
        except ResultsError as error:
            _log.warning("the store does not answer: %s", error)
            return {"answers": False, "cause": type(error).__name__}
        return {"answers": True, "written": round(probe.write_seconds * 1000), "read": round(probe.read_seconds * 1000)}
