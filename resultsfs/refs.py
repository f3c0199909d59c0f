"""The directory `.ref`: content by reference, read-only, fetched on demand and verified."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from hashlib import blake2b

from resultsfs.cache import Cache, CachedContent
from resultsfs.reference import REF_DIR, Reference
from resultsfs.retry import Stop, never
from resultsfs.store import Key, Store

_ROOT = f"/{REF_DIR}"
REF_INODE = 0x7265_6600_0000_0001
"""The inode number of `.ref` itself."""


def is_ref_path(path: str) -> bool:
    """Whether a path is `.ref` or below it."""
    return path == _ROOT or path.startswith(_ROOT + "/")


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


class References:
    """What one volume shows below `.ref`: any content of its own namespace, and no other's.

    The namespace is the volume's; a name only says run and digest. Store and cache are made at first use.
    """

    def __init__(self, namespace: str, store: Callable[[], Store], cache: Callable[[], Cache]) -> None:
        self._namespace = namespace
        self._store = store
        self._cache = cache
        self._sizes: dict[Key, int] = {}
        self._born = time.time_ns()

    def _key(self, path: str) -> Key | None:
        """The content that a path names; None for `.ref` itself. Raises OSError ENOENT for other names."""
        if path == _ROOT:
            return None
        reference = Reference.from_name(path.removeprefix(_ROOT + "/"))
        if reference is None:
            raise _error(errno.ENOENT, path)
        return Key.of(self._namespace, reference)

    def getattr(self, path: str, given_up: Stop = never) -> os.stat_result:
        """Attributes: mode 0444, the content's size. Asks the store once for each content, not again once `given_up()`.

        Raises OSError: ENOENT for what does not exist or is not this namespace's, StoreError.
        """
        key = self._key(path)
        if key is None:
            return self._attributes(stat.S_IFDIR | 0o555, 0, REF_INODE, 2)
        size = self._sizes.get(key)
        if size is None:
            size = self._sizes[key] = self._store().size(key, stop=given_up)
        inode = int.from_bytes(blake2b(path.encode(), digest_size=7).digest(), "big") | 1 << 60
        return self._attributes(stat.S_IFREG | 0o444, size, inode, 1)

    def _attributes(self, mode: int, size: int, inode: int, links: int) -> os.stat_result:
        seconds = self._born // 10**9
        times = dict.fromkeys(("st_atime_ns", "st_mtime_ns", "st_ctime_ns"), self._born)
        fields = (mode, inode, 0, links, 0, 0, size, seconds, seconds, seconds)
        return os.stat_result(fields, {**times, "st_blocks": -(-size // 512), "st_blksize": 1 << 17, "st_rdev": 0})

    def open(self, path: str, flags: int) -> ReferenceHandle:
        """Open content for reading. Raises OSError: EROFS for writing, EISDIR, ENOENT, StoreError."""
        key = self._key(path)
        if key is None:
            raise _error(errno.EISDIR, path)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise _error(errno.EROFS, path)
        handle = ReferenceHandle(lambda: self._cache().open(key))
        handle.opened()
        return handle

    def reopen(self, path: str) -> ReferenceHandle:
        """What was open in a server that died; the store is asked when it is read. Raises OSError: EISDIR, ENOENT."""
        key = self._key(path)
        if key is None:
            raise _error(errno.EISDIR, path)
        return ReferenceHandle(lambda: self._cache().open(key))


class ReferenceHandle:
    """Open content: reads wait until the bytes have arrived; the last ones until all are verified."""

    def __init__(self, content: Callable[[], CachedContent]) -> None:
        self._open = content
        self._lock = threading.Lock()
        self._content: CachedContent | None = None

    def opened(self) -> CachedContent:
        """The content, opened when it is first asked for. Raises OSError, StoreError."""
        with self._lock:
            if self._content is None:
                self._content = self._open()
            return self._content

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read the content. Raises ContentMismatch (EIO) when it is not what the reference names."""
        content, got = self.opened(), 0
        while got < len(buffer):
            part = content.read(len(buffer) - got, offset + got)
            if not part:
                break
            buffer[got : got + len(part)] = part
            got += len(part)
        return got

    def close(self) -> None:
        """Let the cache drop the content when it needs the room."""
        with self._lock:
            if self._content is not None:
                self._content.close()
