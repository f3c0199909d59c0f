"""Events: what went wrong or was decided, as a cluster would show it on the pod and its TaskRun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """A CamelCase `reason` (`ResultSpillFailed`) and a sentence that names result, bytes, limit, way out."""

    reason: str
    message: str
    result: str | None = None
    warning: bool = True


EventSink = Callable[[Event], None]
"""Takes an event; must not block and must not raise."""
