"""What a burst took, given back to the system: the C library keeps what was freed between other pieces."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_ARENA_MAX = -8  # M_ARENA_MAX of <malloc.h>
_ARENAS = 2


def _function(name: str) -> Callable[..., int] | None:
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)  # glibc's own
    return found


_TRIM, _OPTION = _function("malloc_trim"), _function("mallopt")


def share() -> None:
    """Let threads share their free memory, before there are any: each would keep a heap of its own.

    As MALLOC_ARENA_MAX in the environment would; nothing where the C library has no such option.
    """
    if _OPTION is not None:
        _OPTION(_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return free memory; nothing where the C library has no such function."""
    if _TRIM is not None:
        _TRIM(0)
