"""The C library's memory: what a burst took is given back to the system, instead of kept between other pieces."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

# of <malloc.h>
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
_ARENAS = 2
_LARGE = 1 << 20
"""Bytes from which on a piece is mapped by itself, and unmapped when it is freed: buffers of transfers."""


def _function(name: str) -> Callable[..., int] | None:
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)  # glibc's own
    return found


_TRIM, _OPTION = _function("malloc_trim"), _function("mallopt")


def share() -> None:
    """Let threads share their free memory, before there are any: each would keep a heap of its own. Large pieces are
    in none, where what is left of them would be too small for the next.

    As MALLOC_ARENA_MAX and MALLOC_MMAP_THRESHOLD_ in the environment would; nothing where the C library has no such
    options.
    """
    if _OPTION is not None:
        _OPTION(_ARENA_MAX, _ARENAS)
        _OPTION(_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return free memory; nothing where the C library has no such function."""
    if _TRIM is not None:
        _TRIM(0)
