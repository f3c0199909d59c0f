"""Waiting for a condition of the cluster, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.cluster.machine.errors import ClusterError

_INTERVAL = 0.05
"""Seconds between looks at what cannot be watched."""


def until(condition: Callable[[], bool], deadline: float, what: str) -> None:
    """Return as soon as the condition holds. Raises ClusterError naming `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise ClusterError(f"not within {deadline:.0f} s: {what}")
        time.sleep(_INTERVAL)
