"""Backing files: what the kernel is told to read and write itself (Linux 6.9, FUSE 7.40). Takes CAP_SYS_ADMIN."""

from __future__ import annotations

import fcntl
import struct
from typing import Protocol

_OPEN, _CLOSE = 0x4010E501, 0x4004E502  # FUSE_DEV_IOC_BACKING_OPEN, FUSE_DEV_IOC_BACKING_CLOSE
_SYS_ADMIN = 1 << 21


class Backing(Protocol):
    """The backing files of one session, whoever makes the ioctl.

    `permitted`: whether that process has the right, as far as it can tell before it has tried.
    """

    @property
    def permitted(self) -> bool:
        """Whether whoever makes the ioctl has the right to."""
        ...

    def open(self, file: int) -> int:
        """Register an open file; its backing id. Raises OSError."""
        ...

    def close(self, backing_id: int) -> None:
        """Let go of a backing id. Raises OSError."""
        ...


class Passthrough:
    """The backing files of the session with this descriptor, by ioctl(2)."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def permitted(self) -> bool:
        """Whether this process has the right to."""
        return may_back()

    def open(self, file: int) -> int:
        """Register an open file; its backing id. Raises OSError."""
        request = bytearray(struct.pack("=iIQ", file, 0, 0))
        return int(fcntl.ioctl(self._descriptor, _OPEN, request))

    def close(self, backing_id: int) -> None:
        """Let go of a backing id. Raises OSError."""
        fcntl.ioctl(self._descriptor, _CLOSE, struct.pack("=I", backing_id))


def may_back() -> bool:
    """Whether this process has CAP_SYS_ADMIN in the initial user namespace. Raises OSError."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        initial = file.read().split() == ["0", "0", str(2**32 - 1)]
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return initial and bool(effective & _SYS_ADMIN)
