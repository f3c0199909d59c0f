"""Durations as Go writes them (`1h30m0s`), which Tekton's timeouts are."""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+|0")


def parse(text: str) -> float:
    """Seconds; 0 means no limit where Tekton takes a timeout. Raises ValueError with the allowed forms."""
    if _WHOLE.fullmatch(text) is None:
        raise ValueError("expected a duration such as 90s, 10m or 1h30m0s (0 for no limit)")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def show(seconds: float) -> str:
    """As Go prints it: `1h0m0s`, `1m30s`, `1.5s`, `200ms`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(round(seconds, 9), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours}h{minutes}m{rest:g}s"
    return f"{minutes}m{rest:g}s" if minutes else f"{rest:g}s"
