"""What a burst took, given back to the system: the C library keeps what was freed between other pieces."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _trim() -> Callable[[int], int] | None:
    library = ctypes.CDLL(None)
    found: Callable[[int], int] | None = getattr(library, "malloc_trim", None)  # glibc's own
    return found


_TRIM = _trim()


def give_back() -> None:
    """Return free memory; nothing where the C library has no such function."""
    if _TRIM is not None:
        _TRIM(0)
