"""The node cache: what `.ref` reads, fetched once, on this node's disk, within a limit.

    <directory>/<namespace>/<run uid>/<sha256>    verified content; its file time is when it was last opened
    <directory>/.unfinished/<uuid>                a download that goes on

A file gets its final name only when its SHA-256 has been verified and it is on the disk, so what is found at the next
start can be served. A reader waits until its bytes have arrived; the last block arrives only after verification.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator

from resultsfs import store_names as names
from resultsfs.cache_entry import Entry
from resultsfs.disk import Disk, Unbounded
from resultsfs.errors import NotSupported, ResultsError
from resultsfs.observer import Observer, Unobserved
from resultsfs.retry import check
from resultsfs.store import Key, Store

_log = logging.getLogger(__name__)


class Cache:
    """Content fetched from `store`, at most `limit_bytes` of it kept in `directory`. Safe to use from several threads.

    What is open is never dropped, so that the limit can be exceeded by what is in use. Content larger than the limit is
    served and then dropped. Raises NotSupported when another process uses the directory.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        limit_bytes: int,
        store: Store,
        observer: Observer | None = None,
        disk: Disk | None = None,
    ) -> None:
        self._directory = os.fspath(directory)
        self._observer: Observer = observer if observer is not None else Unobserved()
        self._disk: Disk = disk if disk is not None else Unbounded()
        self._limit = limit_bytes
        self._store = store
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, Entry] = OrderedDict()  # what was used longest ago first
        self._threads: set[threading.Thread] = set()
        self._closed = False
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        os.makedirs(os.path.join(self._directory, names.UNFINISHED), mode=0o700, exist_ok=True)
        self._guard = _owned(self._directory)
        try:
            self._recover()
        except BaseException:
            os.close(self._guard)
            raise

    def open(self, key: Key) -> CachedContent:
        """A handle on a content; the first one starts the only download, the others share it.

        Raises ContentMissing, and what the store raises when it cannot tell the size.
        """
        with self._lock:
            if self._closed:
                raise ResultsError(f"the cache {self._directory} is closed", errno.ESHUTDOWN)
            entry = self._entries.get(key)
            begin = entry is None
            if entry is None:
                entry = self._entries[key] = Entry(key)
            entry.readers += 1
            self._entries.move_to_end(key)
        self._observer.opened(cached=not begin)
        try:
            if begin:
                self._begin(entry)
            entry.wait_for_size()
            with self._lock:
                fd = self._open_file(entry)
            if fd is not None:
                return CachedContent(self, entry, fd)
        except BaseException:
            self._left(entry)
            raise
        self._left(entry)
        return self.open(key)

    def close(self) -> None:
        """Stop the downloads, wait for them, and give the directory free; open handles get ESHUTDOWN."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            entries, threads = list(self._entries.values()), list(self._threads)
        for entry in entries:
            if not entry.verified:
                entry.fail(ResultsError(f"the cache {self._directory} was closed", errno.ESHUTDOWN))
        for thread in threads:
            thread.join()
        with self._lock:
            self._entries.clear()
            os.close(self._guard)

    def shrink(self, count: int) -> int:
        """Drop what was used longest ago and is not open, until `count` bytes are free; how many that were."""
        freed = 0
        with self._lock:
            for entry in list(self._entries.values()):
                if freed >= count:
                    break
                if entry.verified and not entry.readers:
                    freed += entry.size
                    self._drop(entry)
        return freed

    def bound(self, limit_bytes: int) -> None:
        """Have another limit from now on."""
        with self._lock:
            self._limit = limit_bytes
            for entry in list(self._entries.values()):
                if entry.size > limit_bytes and entry.verified and not entry.readers:
                    self._drop(entry)
            self._make_room()

    @property
    def used_bytes(self) -> int:
        """Bytes of all content that is here or on its way, but for what is larger than the limit."""
        with self._lock:
            return self._used()

    # -- downloads ----------------------------------------------------------------------------------------------

    def _begin(self, entry: Entry) -> None:
        """Ask for the size and start the download."""
        try:
            size = self._store.size(entry.key, stop=lambda: self._closed)
            self._disk.spare(size)
            path = os.path.join(self._directory, names.UNFINISHED, str(uuid.uuid4()))
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with self._lock:
                entry.start(path, size)
                self._make_room()
                thread = threading.Thread(target=self._download, args=(entry, path, fd), name="cache-download")
                self._threads.add(thread)
                thread.start()
        except BaseException as error:
            self._fail(entry, error)
            raise

    def _download(self, entry: Entry, path: str, fd: int) -> None:
        """Body of a download's thread: fill the file, then give it its name."""

        def unwanted() -> bool:
            return self._closed or entry.readers == 0

        written = 0
        try:
            blocks = self._store.verified(entry.key, entry.size, stop=unwanted)
            with contextlib.closing(blocks):
                for block in blocks:
                    check(unwanted, f"content {entry.key}")
                    view = memoryview(block)
                    while view:
                        count = os.write(fd, view)
                        view, written = view[count:], written + count
                    if written < entry.size:  # the rest is shown by its name alone
                        entry.arrive(len(block))
            os.fsync(fd)
            self._keep(entry)
        except Exception as error:  # noqa: BLE001  its readers are told
            self._fail(entry, error)
        finally:
            os.close(fd)
            if not entry.verified:
                _unlink(path)
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _keep(self, entry: Entry) -> None:
        """The download is whole and verified: name it, tell the readers."""
        target = self._place(entry.key)
        with self._lock:
            check(lambda: self._entries.get(entry.key) is not entry, f"content {entry.key}")  # its last reader went
            for directory in self._parents(entry.key):
                os.makedirs(directory, mode=0o700, exist_ok=True)
            os.rename(entry.path, target)
            entry.finish(target)

    def _fail(self, entry: Entry, error: BaseException) -> None:
        """Forget an entry, so that the next open tries again, and tell its readers why."""
        if isinstance(error, ResultsError):
            failure = error
        else:
            text = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
            failure = ResultsError(f"content {entry.key} cannot be cached in {self._directory}: {text}", errno.EIO)
        with self._lock:
            if self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
        entry.fail(failure)

    # -- files --------------------------------------------------------------------------------------------------

    def _place(self, key: Key) -> str:
        return os.path.join(self._directory, key.path)

    def _parents(self, key: Key) -> tuple[str, str]:
        """The directories of a content: its namespace's, its run's."""
        run = os.path.dirname(self._place(key))
        return os.path.dirname(run), run

    def _open_file(self, entry: Entry) -> int | None:
        """A descriptor to read from; None, and the entry forgotten, when its file is gone."""
        try:
            fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            _log.warning("cached file %s cannot be used, fetching it again: %s", entry.path, error.strerror)
            if self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
            return None
        os.utime(entry.path)  # for the order of use after a restart
        return fd

    def _left(self, entry: Entry) -> None:
        """A reader has closed its handle."""
        with self._lock:
            entry.readers -= 1
            mine = self._entries.get(entry.key) is entry
            if entry.readers or not mine:
                return
            if not entry.verified:
                del self._entries[entry.key]  # the download ends by itself; the next open begins another
            elif entry.size > self._limit:
                self._drop(entry)
            else:
                self._make_room()

    def _make_room(self) -> None:
        """Drop what was used longest ago and is not open, down to the limit. Called with the lock held."""
        used = self._used()
        for entry in list(self._entries.values()):
            if used <= self._limit:
                return
            if entry.verified and not entry.readers:
                used -= entry.size
                self._drop(entry)

    def _used(self) -> int:
        return sum(entry.size for entry in self._entries.values() if entry.size <= self._limit)

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.key]
        _unlink(entry.path)
        for directory in reversed(self._parents(entry.key)):
            try:
                os.rmdir(directory)
            except OSError:  # others' content is in it
                return

    def _recover(self) -> None:
        """Take over what an earlier process verified; remove what it left unfinished."""
        unfinished = os.path.join(self._directory, names.UNFINISHED)
        for name in os.listdir(unfinished):
            _unlink(os.path.join(unfinished, name))
        for _, entry in sorted(self._found(), key=lambda found: found[0]):
            self._entries[entry.key] = entry
        self._make_room()

    def _found(self) -> Iterator[tuple[float, Entry]]:
        for top, _, files in os.walk(self._directory):
            namespace, _, run_name = os.path.relpath(top, self._directory).partition("/")
            run = names.as_uid(run_name)
            if run is None or not names.is_namespace(namespace):
                continue
            for name in filter(names.is_sha256, files):
                path = os.path.join(top, name)
                status = os.lstat(path)
                entry = Entry(Key(namespace, run, name))
                entry.start(path, status.st_size)
                entry.finish(path)
                yield status.st_mtime, entry


class CachedContent:
    """One reader of one content. `size` in bytes; `close` may be called twice, but not while somebody reads."""

    def __init__(self, cache: Cache, entry: Entry, fd: int) -> None:
        self._cache = cache
        self._entry = entry
        self._fd = fd
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self._entry.size

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`: fewer only at the end. Waits until they have arrived.

        Raises ContentMismatch for wrong content, the store's error when the download failed.
        """
        if self._fd < 0:
            raise ResultsError("read of a closed handle", errno.EBADF)
        end = min(offset + size, self._entry.size)
        self._entry.wait_for(end)
        pieces = []
        while offset < end and (piece := os.pread(self._fd, end - offset, offset)):
            pieces.append(piece)
            offset += len(piece)
        if offset < end:
            raise ResultsError(f"cached content {self._entry.path} ends at {offset}, short of {end}", errno.EIO)
        return b"".join(pieces)

    def close(self) -> None:
        """Let the cache drop the content when it needs the room; a download that nobody reads ends."""
        with self._lock:
            if self._fd < 0:
                return
            os.close(self._fd)
            self._fd = -1
        self._cache._left(self._entry)

    def __enter__(self) -> CachedContent:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _owned(directory: str) -> int:
    """A descriptor that keeps other processes out of the directory."""
    fd = os.open(os.path.join(directory, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise NotSupported(
            f"the cache directory {directory} is in use by another process: give each its own", errno.EBUSY
        ) from None
    return fd


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        _log.info("cached file %s was removed by somebody else", path)
