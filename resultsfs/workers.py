"""Threads that carry out what a request does not wait for, or waits for without holding up others."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Workers:
    """Threads that carry out jobs, soonest due first. One set a process, shared by its volumes.

    Jobs must not raise; what one does raise is logged and ends only that job.
    """

    def __init__(self, count: int, name: str) -> None:
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._count = count
        self._name = name
        self._threads: list[threading.Thread] = []
        self._idle = 0

    def submit(self, job: Callable[[], None], delay: float = 0.0) -> None:
        """Carry out a job after `delay` seconds, as soon as a thread is free. Ignored once closed."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._jobs, (time.monotonic() + delay, next(self._sequence), job))
            if self._idle < len(self._jobs) and len(self._threads) < self._count:
                thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()

    @property
    def queued(self) -> int:
        """How many jobs are due and wait for a thread."""
        now = time.monotonic()
        with self._changed:
            return sum(due <= now for due, _, _ in self._jobs)

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                wait = self._jobs[0][0] - time.monotonic() if self._jobs else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._jobs)[2]
                self._idle += 1
                self._changed.wait(wait)
                self._idle -= 1
        return None

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:
                log.exception("a job of %s failed", self._name)

    def close(self, timeout: float = 10.0) -> None:
        """Drop what is queued and wait for what runs; abandon running uploads first."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
