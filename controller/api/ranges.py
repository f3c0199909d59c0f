"""Byte ranges and conditions of HTTP (RFC 9110), for content that never changes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from controller.api.errors import Problem

_SINGLE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `start` up to `end` (exclusive) of a content."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """How many they are."""
        return self.end - self.start


def span(header: str | None, if_range: str | None, etag: str, size: int) -> Span | None:
    """The part that is asked for; None for the whole, which stands for several ranges and other units too.

    Raises Problem 416.
    """
    if header is None or (if_range is not None and if_range.strip() != etag):
        return None
    match = _SINGLE.fullmatch(header.strip().replace(" ", ""))
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":  # the last so many
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), size if match[2] == "" else min(size, int(match[2]) + 1)
        if match[2] != "" and int(match[2]) < start:
            return None  # no range at all, so it is not there
    if start >= size or start >= end:
        raise Problem(416, f"the content has {size} bytes", {"Content-Range": f"bytes */{size}"})
    return Span(start, end)


def unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether the caller has this content already."""
    if if_none_match is None:
        return False
    return any(tag.strip().removeprefix("W/") in ("*", etag) for tag in if_none_match.split(","))
