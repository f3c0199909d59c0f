"""The fusepy transport: serves one volume through libfuse 2, anywhere libfuse is.

fusepy 3.0.1 is taken as it is but for what cost a factor or an error when measured (`docs/transports.md`):
reads and writes without copies, names that are not UTF-8, exact times, `fallocate`, attributes filled in
directly, and no FLUSH (all writes are in the spool when they return).
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from resultsfs import allocator
from resultsfs.errors import NotSupported
from resultsfs.filesystem import Caller, ResultsFilesystem
from resultsfs.limits import raise_descriptors
from resultsfs.syscalls import Time

try:
    import fuse
except OSError as error:  # fusepy looks for the library when it is imported
    raise NotSupported(
        f"libfuse 2 was not found ({error}): install the package libfuse2 (libfuse2t64 on newer releases)"
    ) from None

log = logging.getLogger(__name__)

_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_ENCODING = "names-as-sent"

# Attributes and names are not cached: libfuse 2 gives each name of a file its own node, so a second name
# would show stale sizes. See docs/transports.md for what that costs.
OPTIONS: dict[str, object] = {
    "foreground": True,
    "big_writes": True,
    "max_write": 131072,
    "max_read": 131072,
    "use_ino": True,
    "default_permissions": True,
    "nosuid": True,
    "nodev": True,
    "fsname": "resultsfs",
    "subtype": "resultsfs",
    "attr_timeout": 0,
    "entry_timeout": 0,
    "negative_timeout": 0,
    "ac_attr_timeout": 0,
}


def _register_encoding() -> None:
    """File names are bytes: those that are not text travel as surrogates, as in Python's own calls."""

    def encode(text: str, errors: str = "strict") -> tuple[bytes, int]:
        return os.fsencode(text), len(text)

    def decode(data: bytes | memoryview, errors: str = "strict") -> tuple[str, int]:
        return os.fsdecode(bytes(data)), len(data)

    info = codecs.CodecInfo(encode, decode, name=_ENCODING)  # type: ignore[arg-type]
    codecs.register(lambda name: info if name == _ENCODING.replace("-", "_") else None)


_register_encoding()

_fallocate_t = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_longlong,
    ctypes.c_longlong,
    ctypes.POINTER(fuse.fuse_file_info),
)


class _Operations(ctypes.Structure):
    """struct fuse_operations of libfuse 2.9 (fuse.h) up to `fallocate`; fusepy's ends at `ioctl`."""

    _fields_ = [
        *fuse.fuse_operations._fields_,
        ("poll", ctypes.c_void_p),
        ("write_buf", ctypes.c_void_p),
        ("read_buf", ctypes.c_void_p),
        ("flock", ctypes.c_void_p),
        ("fallocate", _fallocate_t),
    ]


fuse.fuse_operations = _Operations


class _Adapter:
    """What fusepy asks for by name: which operations there are, and the flags."""

    use_ns = True
    flag_utime_omit_ok = 1
    flag_nullpath_ok = 1  # an open file whose directory is gone has no path any more
    _absent = frozenset({"getdir", "utime", "flush", "access", "lock", "bmap", "ioctl", "releasedir", "opendir"})
    _absent_buffers = frozenset({"poll", "write_buf", "read_buf", "flock"})

    def __init__(self, filesystem: ResultsFilesystem, ready: Callable[[], None]) -> None:
        self._filesystem = filesystem
        self._ready = ready

    def __getattr__(self, name: str) -> Any:
        if name.startswith("flag_") or name in self._absent or name in self._absent_buffers:
            raise AttributeError(name)
        found = self.__dict__[name] = getattr(self._filesystem, name)  # looked up once
        return found

    def __call__(self, operation: str, *args: Any) -> Any:
        return getattr(self, operation)(*args)

    def read(self, fh: int, buffer: memoryview, offset: int) -> int:
        """Fill libfuse's own buffer."""
        return self._filesystem.read_into(fh, buffer, offset)

    def init(self, path: str) -> None:
        """The session is up."""
        self._filesystem.volume.spool.begin()
        self._ready()

    def destroy(self, path: str) -> None:
        """The session ends; whoever serves closes the volume."""

    def readdir(self, path: str | None, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        """Entries in fusepy's form."""
        for name, inode, kind in self._filesystem.readdir(path):
            yield name, {"st_ino": inode, "st_mode": kind}, 0

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> None:
        """A directory has no handle of ours."""
        self._filesystem.fsyncdir(path, datasync)

    def statfs(self, path: str) -> dict[str, int]:
        """Counts in fusepy's form."""
        found = self._filesystem.statfs(path)
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}


class _Session(fuse.FUSE):  # type: ignore[misc]
    """fusepy's callbacks, with those replaced that it does slowly or not at all."""

    def fgetattr(self, path: bytes, buf: Any, fip: Any) -> int:
        handle = fip.contents.fh if fip else None
        found = self.operations("getattr", self._decode_optional_path(path), handle)
        ctypes.memset(buf, 0, ctypes.sizeof(fuse.c_stat))
        st = buf.contents
        st.st_mode, st.st_ino, st.st_nlink = found.st_mode, found.st_ino, found.st_nlink
        st.st_uid, st.st_gid, st.st_size = found.st_uid, found.st_gid, found.st_size
        st.st_blocks, st.st_blksize, st.st_rdev = found.st_blocks, found.st_blksize, found.st_rdev
        for field, nanoseconds in (
            (st.st_atimespec, found.st_atime_ns),
            (st.st_mtimespec, found.st_mtime_ns),
            (st.st_ctimespec, found.st_ctime_ns),
        ):
            field.tv_sec, field.tv_nsec = divmod(nanoseconds, 10**9)
        return 0

    def read(self, path: bytes, buf: Any, size: int, offset: int, fip: Any) -> int:
        target = (ctypes.c_char * size).from_address(ctypes.addressof(buf.contents))
        return int(self.operations("read", fip.contents.fh, memoryview(target).cast("B"), offset))

    def write(self, path: bytes, buf: Any, size: int, offset: int, fip: Any) -> int:
        data = (ctypes.c_char * size).from_address(ctypes.addressof(buf.contents)) if size else b""
        info = fip.contents
        append = bool(info.flags & os.O_APPEND)
        return int(self.operations.write(info.fh, memoryview(data), offset, append=append))

    def open(self, path: bytes, fip: Any) -> int:
        self.operations("open", path.decode(self.encoding), fip.contents)
        return 0

    def create(self, path: bytes, mode: int, fip: Any) -> int:
        self.operations("create", path.decode(self.encoding), mode, fip.contents)
        return 0

    def release(self, path: bytes, fip: Any) -> int:
        self.operations("release", fip.contents.fh)
        return 0

    def fsync(self, path: bytes, datasync: int, fip: Any) -> int:
        self.operations("fsync", fip.contents.fh, datasync)
        return 0

    def ftruncate(self, path: bytes, length: int, fip: Any) -> int:
        self.operations("truncate", self._decode_optional_path(path), length, fip.contents.fh)
        return 0

    def fallocate(self, path: bytes, mode: int, offset: int, length: int, fip: Any) -> int:
        self.operations("fallocate", fip.contents.fh, mode, offset, length)
        return 0

    def utimens(self, path: bytes, buf: Any) -> int:
        times = (_time(buf.contents.actime), _time(buf.contents.modtime))
        self.operations("utimens", path.decode(self.encoding), *times)
        return 0


def _time(spec: Any) -> Time:
    if spec.tv_nsec == _UTIME_OMIT:
        return None
    if spec.tv_nsec == _UTIME_NOW:
        return "now"
    return int(spec.tv_sec * 10**9 + spec.tv_nsec)


# ctypes makes a Python thread state for each call from one of libfuse's threads, and deletes it again: a third of the
# time of a small request. Taking one more share in it keeps it for the thread's life. libfuse keeps ten threads
# and lets others go after a burst; only so many states are kept, for nobody deletes them before the process ends.
_KEPT_THREADS = 16
_kept = itertools.count()
_thread = threading.local()


def _keep_thread_state() -> None:
    _thread.known = True
    if next(_kept) < _KEPT_THREADS:
        ctypes.pythonapi.PyGILState_Ensure()


def _wrapped(func: Callable[..., int], *args: Any) -> int:
    """What each callback goes through: errors become errnos; what nobody foresaw is logged and EIO."""
    if not hasattr(_thread, "known"):
        _keep_thread_state()
    try:
        return func(*args) or 0
    except OSError as error:
        return -(error.errno or errno.EIO)
    except Exception:
        log.exception("file operation %s failed unexpectedly", func.__name__)
        return -errno.EIO


# fusepy looks the wrapper up on the class; its own turns unforeseen errors into EINVAL and costs a call more
_Session._wrapper = staticmethod(_wrapped)


def caller() -> Caller:
    """Who sent the request that this thread is serving."""
    return Caller(*fuse.fuse_get_context())


def serve(filesystem: ResultsFilesystem, mountpoint: str, ready: Callable[[], None], *, allow_other: bool) -> None:
    """Mount and serve until unmounted or told to end (SIGTERM, SIGINT, SIGHUP); must be the main thread.

    `ready` is called when the mount answers. Raises NotSupported when mounting fails, with what to do.
    """
    os.umask(0)
    raise_descriptors()
    allocator.share()
    options = OPTIONS | ({"allow_other": True} if allow_other else {})
    try:
        _Session(_Adapter(filesystem, ready), mountpoint, encoding=_ENCODING, **options)
    except RuntimeError:
        raise NotSupported(
            f"mounting at {mountpoint} failed; libfuse's own message is above. `resultsfs doctor` says what is missing"
        ) from None
