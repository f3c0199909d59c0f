"""The FUSE protocol: its numbers and the layouts of its messages, from `include/uapi/linux/fuse.h`.

Names are those of the header without their prefixes; where a message or field came after 7.31, the version
that brought it is noted. All integers are in host order.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from resultsfs.kernel.layout import Layout

MAJOR = 7
MINOR_MIN, MINOR_MAX = 31, 40
"""The versions spoken: Linux 5.4 (7.31) is the oldest; passthrough and resending came with 6.9 (7.40)."""
ROOT_ID = 1
RESEND = 1 << 63
"""In `unique`: the request may have been carried out before by a server that died (7.40)."""


class Opcode(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50  # 7.34
    TMPFILE = 51  # 7.37
    STATX = 52  # 7.39


class InitFlag(IntFlag):
    """Flags of INIT; from bit 32 on they travel in `flags2` (7.36)."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    HANDLE_KILLPRIV_V2 = 1 << 28  # 7.33
    INIT_EXT = 1 << 30  # 7.36
    DIRECT_IO_ALLOW_MMAP = 1 << 36  # 7.39
    PASSTHROUGH = 1 << 37  # 7.40
    HAS_RESEND = 1 << 39  # 7.40


class Fattr(IntFlag):
    """Which fields of SETATTR count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    CTIME = 1 << 10  # with the writeback cache
    KILL_SUIDGID = 1 << 11  # 7.33


FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE = 1 << 0, 1 << 1
OPEN_KILL_SUIDGID = 1  # 7.33
FOPEN_NOFLUSH = 1 << 5  # 7.35
FOPEN_PASSTHROUGH = 1 << 7  # 7.40
GETATTR_FH = 1
WRITE_CACHE = 1  # from the page cache: the offset is where it belongs, and nobody's process asks
FSYNC_FDATASYNC = 1
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


class InHeader(NamedTuple):
    """Before every request; `extlen` came with 7.38 out of padding."""

    len: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    extlen: int
    padding: int


class InitIn(NamedTuple):
    """The kernel's half of INIT; `flags2` follows from 7.36 on."""

    major: int
    minor: int
    max_readahead: int
    flags: int


class GetattrIn(NamedTuple):
    """fuse_getattr_in."""

    getattr_flags: int
    dummy: int
    fh: int


class SetattrIn(NamedTuple):
    """fuse_setattr_in; times are seconds and nanoseconds."""

    valid: int
    padding: int
    fh: int
    size: int
    lock_owner: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    unused4: int
    uid: int
    gid: int
    unused5: int


class MknodIn(NamedTuple):
    """fuse_mknod_in; a name follows."""

    mode: int
    rdev: int
    umask: int
    padding: int


class MkdirIn(NamedTuple):
    """fuse_mkdir_in; a name follows."""

    mode: int
    umask: int


class NodeIn(NamedTuple):
    """fuse_rename_in (its `newdir`) and fuse_link_in (its `oldnodeid`)."""

    nodeid: int


class Rename2In(NamedTuple):
    """fuse_rename2_in; the old and the new name follow."""

    newdir: int
    flags: int
    padding: int


class OpenIn(NamedTuple):
    """fuse_open_in."""

    flags: int
    open_flags: int


class CreateIn(NamedTuple):
    """fuse_create_in; a name follows."""

    flags: int
    mode: int
    umask: int
    open_flags: int


class ReadIn(NamedTuple):
    """fuse_read_in, also of READDIR and READDIRPLUS."""

    fh: int
    offset: int
    size: int
    read_flags: int
    lock_owner: int
    flags: int
    padding: int


class WriteIn(NamedTuple):
    """fuse_write_in; the data follow."""

    fh: int
    offset: int
    size: int
    write_flags: int
    lock_owner: int
    flags: int
    padding: int


class ReleaseIn(NamedTuple):
    """fuse_release_in."""

    fh: int
    flags: int
    release_flags: int
    lock_owner: int


class FlushIn(NamedTuple):
    """fuse_flush_in."""

    fh: int
    unused: int
    padding: int
    lock_owner: int


class FsyncIn(NamedTuple):
    """fuse_fsync_in."""

    fh: int
    fsync_flags: int
    padding: int


class XattrIn(NamedTuple):
    """fuse_setxattr_in (size, flags) without its extension, and fuse_getxattr_in (size, padding)."""

    size: int
    flags: int


class InterruptIn(NamedTuple):
    """fuse_interrupt_in: the request that is interrupted."""

    unique: int


class ForgetIn(NamedTuple):
    """fuse_forget_in."""

    nlookup: int


class BatchForgetIn(NamedTuple):
    """fuse_batch_forget_in; `nodes` times fuse_forget_one follow (the header calls it `count`)."""

    nodes: int
    dummy: int


class ForgetOne(NamedTuple):
    """fuse_forget_one."""

    nodeid: int
    nlookup: int


class FallocateIn(NamedTuple):
    """fuse_fallocate_in."""

    fh: int
    offset: int
    length: int
    mode: int
    padding: int


class LseekIn(NamedTuple):
    """fuse_lseek_in."""

    fh: int
    offset: int
    whence: int
    padding: int


class CopyFileRangeIn(NamedTuple):
    """fuse_copy_file_range_in."""

    fh_in: int
    off_in: int
    nodeid_out: int
    fh_out: int
    off_out: int
    len: int
    flags: int


IN_HEADER = Layout("IIQQIIIHH", InHeader)
INIT_IN = Layout("IIII", InitIn)
GETATTR_IN = Layout("IIQ", GetattrIn)
SETATTR_IN = Layout("IIQQQqqqIIIIIIII", SetattrIn)
MKNOD_IN = Layout("IIII", MknodIn)
MKDIR_IN = Layout("II", MkdirIn)
NODE_IN = Layout("Q", NodeIn)
RENAME2_IN = Layout("QII", Rename2In)
OPEN_IN = Layout("II", OpenIn)
CREATE_IN = Layout("IIII", CreateIn)
READ_IN = Layout("QQIIQII", ReadIn)
WRITE_IN = Layout("QQIIQII", WriteIn)
RELEASE_IN = Layout("QIIQ", ReleaseIn)
FLUSH_IN = Layout("QIIQ", FlushIn)
FSYNC_IN = Layout("QII", FsyncIn)
XATTR_IN = Layout("II", XattrIn)
INTERRUPT_IN = Layout("Q", InterruptIn)
FORGET_IN = Layout("Q", ForgetIn)
BATCH_FORGET_IN = Layout("II", BatchForgetIn)
FORGET_ONE = Layout("QQ", ForgetOne)
FALLOCATE_IN = Layout("QQQII", FallocateIn)
LSEEK_IN = Layout("QQII", LseekIn)
COPY_FILE_RANGE_IN = Layout("QQQQQQQ", CopyFileRangeIn)
