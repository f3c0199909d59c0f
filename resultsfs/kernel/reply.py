"""Answers in the FUSE protocol's form."""

from __future__ import annotations

import os
import stat
import struct

_HEADER = struct.Struct("=IiQ")  # len, error, unique
_ATTR = "QQQqqqIIIIIIIIII"  # ino … ctime, the three nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
_ENTRY = struct.Struct("=QQQQII" + _ATTR)  # nodeid, generation, entry_valid, attr_valid, their nanoseconds, attr
_ATTR_OUT = struct.Struct("=QII" + _ATTR)  # attr_valid, attr_valid_nsec, dummy, attr
_OPEN = struct.Struct("=QIi")  # fh, open_flags, backing_id (7.40)
_SIZE = struct.Struct("=II")  # write_out, getxattr_out
_OFFSET = struct.Struct("=Q")
_STATFS = struct.Struct("=QQQQQIIII24x")
_DIRENT = struct.Struct("=QQII")  # ino, off, namelen, type
_INVALID = struct.Struct("=Qqq")  # ino, off, len
_INIT = struct.Struct("=IIIIHHIIHHII24x")

NOTIFY_INVAL_INODE, _NOTIFY_RESEND = 2, 7
HEADER_SIZE = _HEADER.size
ENTRY_SIZE = _ENTRY.size
NO_ENTRY = bytes(ENTRY_SIZE)
"""In a READDIRPLUS entry: nothing is looked up."""


def header(unique: int, length: int, error: int = 0) -> bytes:
    """fuse_out_header; `length` is that of what follows, `error` an errno."""
    return _HEADER.pack(HEADER_SIZE + length, -error, unique)


def header_into(buffer: memoryview, unique: int, length: int) -> None:
    """fuse_out_header of a success, at the beginning of a buffer that holds the rest already."""
    _HEADER.pack_into(buffer, 0, HEADER_SIZE + length, 0, unique)


def _attr(found: os.stat_result) -> tuple[int, ...]:
    atime, atimensec = divmod(found.st_atime_ns, 10**9)
    mtime, mtimensec = divmod(found.st_mtime_ns, 10**9)
    ctime, ctimensec = divmod(found.st_ctime_ns, 10**9)
    # the kernel's own encoding of a device number: 12 bits of major above 20 of minor, minor's low byte first
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    rdev = (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
    return (
        found.st_ino, found.st_size, found.st_blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec,
        found.st_mode, found.st_nlink, found.st_uid, found.st_gid, rdev, found.st_blksize, 0,
    )  # fmt: skip


def entry(nodeid: int, generation: int, entry_valid: int, attr_valid: int, found: os.stat_result) -> bytes:
    """fuse_entry_out; validity in seconds."""
    return _ENTRY.pack(nodeid, generation, entry_valid, attr_valid, 0, 0, *_attr(found))


def negative(entry_valid: int) -> bytes:
    """fuse_entry_out that says for `entry_valid` seconds that there is no such name."""
    return _ENTRY.pack(0, 0, entry_valid, *(0,) * 19)


def attributes(attr_valid: int, found: os.stat_result) -> bytes:
    """fuse_attr_out."""
    return _ATTR_OUT.pack(attr_valid, 0, 0, *_attr(found))


def opened(fh: int, flags: int, backing_id: int = 0) -> bytes:
    """fuse_open_out."""
    return _OPEN.pack(fh, flags, backing_id)


def size(count: int) -> bytes:
    """fuse_write_out or fuse_getxattr_out."""
    return _SIZE.pack(count, 0)


def offset(position: int) -> bytes:
    """fuse_lseek_out."""
    return _OFFSET.pack(position)


def invalid_attributes(nodeid: int) -> bytes:
    """FUSE_NOTIFY_INVAL_INODE, header and all: the kernel asks for a node's attributes again, and keeps its pages."""
    return _HEADER.pack(HEADER_SIZE + _INVALID.size, NOTIFY_INVAL_INODE, 0) + _INVALID.pack(nodeid, -1, 0)


def resend() -> bytes:
    """FUSE_NOTIFY_RESEND (7.40): the kernel asks again for all that has been read and not answered."""
    return _HEADER.pack(HEADER_SIZE, _NOTIFY_RESEND, 0)


def statfs(found: os.statvfs_result) -> bytes:
    """fuse_statfs_out."""
    return _STATFS.pack(
        found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
        found.f_bsize, found.f_namemax, found.f_frsize, 0,
    )  # fmt: skip


def dirent(inode: int, following: int, name: bytes, kind: int) -> bytes:
    """fuse_dirent, padded; `following` is the offset of the next one, `kind` a file type as in st_mode."""
    return _DIRENT.pack(inode, following, len(name), stat.S_IFMT(kind) >> 12) + name + bytes(-len(name) % 8)


def dirent_size(name: bytes) -> int:
    """The length of a fuse_dirent."""
    return _DIRENT.size + len(name) + -len(name) % 8


def init(minor: int, max_readahead: int, flags: int, max_write: int, max_pages: int, stack_depth: int) -> bytes:
    """fuse_init_out; times are exact to the nanosecond."""
    return _INIT.pack(
        7, minor, max_readahead, flags & 0xFFFFFFFF, 64, 48, max_write, 1, max_pages, 0, flags >> 32, stack_depth
    )
