"""How much one caller may ask, and how much is streamed at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from controller.api.errors import Problem

_REMEMBERED = 10_000


class Rate:
    """A bucket for each caller that fills up in a minute."""

    def __init__(self, per_minute: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, caller: str) -> None:
        """Raise Problem 429 where `take` would; nothing is taken."""
        self._count(caller, 0)

    def take(self, caller: str) -> None:
        """One request of a caller. Raises Problem 429."""
        self._count(caller, 1)

    def _count(self, caller: str, requests: int) -> None:
        size, now = float(self._per_minute()), self._clock()
        with self._lock:
            left, since = self._buckets.get(caller, (size, now))
            left = min(size, left + (now - since) * size / 60)
            taken = left >= 1
            self._buckets[caller] = (left - requests if taken else left), now
            self._buckets.move_to_end(caller)
            while len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)
        if not taken:
            wait = max(1, int((1 - left) * 60 / size) + 1)
            message = f"{caller} has asked more than {size:.0f} times in a minute (api-request-rate)"
            raise Problem(429, message, {"Retry-After": str(wait)})


class Slots:
    """Contents of which something is done at the same time: by all, and half of them by one caller.

    `doing` says what: "streamed (api-downloads)".
    """

    def __init__(self, most: Callable[[], int], doing: str) -> None:
        self._most = most
        self._doing = doing
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    @contextmanager
    def one(self, caller: str) -> Iterator[None]:
        """While it is done. Raises Problem 429 or 503."""
        most = self._most()
        with self._lock:
            if self._running.total() >= most:
                message = f"{most} contents are being {self._doing} at this moment"
                raise Problem(503, message, {"Retry-After": "2"})
            if self._running[caller] >= max(1, most // 2):
                message = f"{self._running[caller]} contents of {caller} are being {self._doing} at this moment"
                raise Problem(429, message, {"Retry-After": "2"})
            self._running[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[caller] -= 1
                if self._running[caller] <= 0:
                    del self._running[caller]
