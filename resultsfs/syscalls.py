"""System calls that Python's os module does not offer."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from typing import Literal

Time = int | Literal["now"] | None
"""Nanoseconds since the epoch, the disk's own present, or None to leave a time as it is."""

NOREPLACE, EXCHANGE = 1, 2
"""Flags of renameat2(2)."""
KEEP_SIZE, PUNCH_HOLE = 1, 2
"""Modes of fallocate(2)."""

_AT_SYMLINK_NOFOLLOW = 0x100
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_Timespec), ctypes.c_int)


_libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


class _FileHandle(ctypes.Structure):
    _fields_ = [("handle_bytes", ctypes.c_uint), ("handle_type", ctypes.c_int), ("f_handle", ctypes.c_ubyte * 128)]


class _Room(threading.local):
    """Where a thread is told handles: asked with each lookup, so it is not made anew."""

    def __init__(self) -> None:
        self.handle, self._mount = _FileHandle(), ctypes.c_int()
        self.address = ctypes.addressof(self.handle)
        self.handle_at, self.mount_at = ctypes.byref(self.handle), ctypes.byref(self._mount)


_room = _Room()
_AT_EMPTY_PATH = 0x1000
_libc.name_to_handle_at.argtypes = (
    ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_FileHandle), ctypes.POINTER(ctypes.c_int), ctypes.c_int,
)  # fmt: skip


_libc.getdents64.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_libc.getdents64.restype = ctypes.c_ssize_t


_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


def filesystem_type(descriptor: int) -> int:
    """The number of the filesystem that an open file lies on: `f_type` of fstatfs(2)."""
    room = (ctypes.c_long * 32)()  # struct statfs has 120 bytes; its first field is the type
    _check(int(_libc.fstatfs(descriptor, room)))
    return int(room[0])


def getdents(descriptor: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """getdents64(2): fill a buffer with linux_dirent64; how many bytes it is now, 0 at the directory's end.

    Raises OSError, ENOENT for a directory that has been removed.
    """
    count = int(_libc.getdents64(descriptor, buffer, len(buffer)))
    if count < 0:
        _check(-1)
    return count


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with all its modes. Raises OSError."""
    _check(_libc.fallocate(descriptor, mode, offset, length))


def renameat2(source: int, old: str, target: int, new: str, flags: int) -> None:
    """renameat2(2). Raises OSError."""
    _check(_libc.renameat2(source, os.fsencode(old), target, os.fsencode(new), flags))


def name_to_handle(directory: int, name: str) -> bytes | None:
    """What tells a file from all others that the disk ever holds, also once its inode number is used again.

    Of the name itself, link or not; an empty name is the descriptor's own file. None where the disk has no
    such handles. Raises OSError.
    """
    handle = _room.handle
    handle.handle_bytes = 128
    flags = 0 if name else _AT_EMPTY_PATH
    if _libc.name_to_handle_at(directory, os.fsencode(name), _room.handle_at, _room.mount_at, flags) != 0:
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.EOVERFLOW, errno.ENOSYS, errno.EPERM):
            return None
        raise OSError(code, os.strerror(code), name)
    return ctypes.string_at(_room.address, 8 + handle.handle_bytes)


def _timespec(time: Time) -> tuple[int, int]:
    if time is None:
        return 0, _UTIME_OMIT
    return (0, _UTIME_NOW) if time == "now" else divmod(time, 10**9)


def utimensat(directory: int, name: str, atime: Time, mtime: Time) -> None:
    """utimensat(2) with NOW and OMIT, on the name itself, link or not. Raises OSError."""
    times = (_Timespec * 2)(_Timespec(*_timespec(atime)), _Timespec(*_timespec(mtime)))
    _check(_libc.utimensat(directory, os.fsencode(name), times, _AT_SYMLINK_NOFOLLOW))
