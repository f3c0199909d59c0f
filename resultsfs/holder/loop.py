"""The holder's event loop: descriptors, timers, and what other threads post."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from functools import partial

log = logging.getLogger(__name__)


class Loop:
    """Runs callbacks on one thread. Only `post` may be called from others."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._posted: deque[Callable[[], None]] = deque()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._stopped = False
        self._epoll.register(self._wake, select.EPOLLIN)

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call back with what happens to a descriptor; errors are told though not asked for."""
        known = descriptor in self._watched
        self._watched[descriptor] = callback
        (self._epoll.modify if known else self._epoll.register)(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Stop that, before the descriptor is closed. Idempotent."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def post(self, function: Callable[[], None]) -> None:
        """Run a function on the loop's thread, soon."""
        self._posted.append(function)
        os.eventfd_write(self._wake, 1)

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Run a function later."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._sequence), function))

    def stop(self) -> None:
        """End `run`, soon; from the loop's thread, or by a signal's handler."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Serve until stopped."""
        while not self._stopped:
            for descriptor, events in self._epoll.poll(self._pause()):
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
                    for _ in range(len(self._posted)):
                        _run(self._posted.popleft())
                elif descriptor in self._watched:
                    _run(partial(self._watched[descriptor], events))
            while self._timers and self._timers[0][0] <= time.monotonic():
                _run(heapq.heappop(self._timers)[2])

    def _pause(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def close(self) -> None:
        """Give back what it holds."""
        self._epoll.close()
        os.close(self._wake)


def _run(function: Callable[[], None]) -> None:
    try:
        function()
    except Exception:  # whatever it is, the others are held on
        log.exception("something failed unexpectedly")
