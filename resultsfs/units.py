"""Sizes and durations as people write them in settings."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|B|k|K|M|G|T|Ki|Mi|Gi|Ti|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Bytes from `4096`, `10GiB`, `90Ki` (powers of 1024) or `5MB`, `5M` (powers of 1000).

    Raises ValueError with the allowed forms.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected bytes such as 4096, 90KiB, 10GiB or 5MB")
    number, unit = match.groups()
    unit = unit.removesuffix("B").upper()
    base = 1024 if unit.endswith("I") else 1000
    size = float(number) * base ** _POWER[unit.removesuffix("I")]
    if size != int(size):
        raise ValueError("expected a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """The shortest exact spelling of a size that `parse_size` reads back, else with one decimal."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size // factor} {unit}" if size % factor == 0 else f"{size / factor:.1f} {unit}"
    return f"{size} B"


def parse_duration(text: str) -> float:
    """Seconds from `1s`, `500ms`, `5m`, `1h30m`, `7d`, or `0`. Raises ValueError with the allowed forms."""
    text = text.strip()
    if text == "0":
        return 0.0
    if _DURATION.fullmatch(text) is None:
        raise ValueError("expected a duration such as 500ms, 1s, 5m, 1h30m or 7d")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def format_duration(seconds: float) -> str:
    """A duration that `parse_duration` reads back, for example `5m` or `1h30m`."""
    if seconds == 0:
        return "0"
    parts = []
    rest = round(seconds * 1000)
    for unit, factor in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, factor)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
