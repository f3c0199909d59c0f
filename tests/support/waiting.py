"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 100.0
"""Seconds; only a broken program ever reaches it."""


def eventually(condition: Callable[[], bool], deadline: float = DEADLINE) -> None:
    """Return as soon as the condition holds. Raises AssertionError when it does not by the deadline."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"did not become true within {deadline} s")
        time.sleep(0.005)
