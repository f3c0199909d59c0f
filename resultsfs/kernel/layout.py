"""How messages are taken apart: structures and names, where what is too short or leads elsewhere is refused."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any, Generic, TypeVar

Buffer = bytes | bytearray | memoryview
T = TypeVar("T", bound=tuple[Any, ...])


class Malformed(OSError):
    """A message that does not hold what its opcode says."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EINVAL, f"malformed FUSE message: {what}")


class Layout(Generic[T]):
    """A structure of the header: how it is packed, and the tuple that holds it."""

    def __init__(self, form: str, kind: type[T]) -> None:
        layout = struct.Struct("=" + form)
        self._kind = kind
        self.size = layout.size
        self._unpack = layout.unpack_from
        self._make = kind._make  # type: ignore[attr-defined]

    def unpack(self, buffer: Buffer, offset: int = 0) -> T:
        """The structure at an offset. Raises Malformed when the buffer ends before it."""
        found: T = self._make(self.values(buffer, offset))
        return found

    def values(self, buffer: Buffer, offset: int = 0) -> tuple[Any, ...]:
        """The same without names, for where it is done with each request."""
        try:
            return self._unpack(buffer, offset)
        except struct.error:
            raise Malformed(f"{len(buffer) - offset} bytes where {self._kind.__name__} needs {self.size}") from None


def names(body: Buffer, offset: int, count: int) -> list[str]:
    """Names that end with a NUL each; bytes that are not UTF-8 as surrogates. Raises Malformed.

    A name is one component: what could lead elsewhere (`/`, `.`, `..`, nothing) is refused.
    """
    found = texts(body, offset, count)
    for name in found:
        if name in ("", ".", "..") or "/" in name:
            raise Malformed(f"{name!r} is no name")
    return found


def texts(body: Buffer, offset: int, count: int) -> list[str]:
    """Any texts that end with a NUL each. Raises Malformed when there are fewer."""
    parts = bytes(body[offset:]).split(b"\0", count)
    if len(parts) <= count:
        raise Malformed(f"{len(parts) - 1} texts where {count} are due")
    return [os.fsdecode(part) for part in parts[:count]]
