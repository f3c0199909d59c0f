"""The store: where spilled content lives, whatever kind of place that is.

Content is addressed by namespace, run and SHA-256 (`Key`), so it is never changed, sent once, and proves itself on the
way back. Memory of one transfer, whatever the size: `store-part-size` x (`store-concurrency` + 1) bytes for an upload,
4 MiB x (`store-concurrency` + 2) for a download; the connections' own buffers come on top.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from resultsfs import store_names as names
from resultsfs import transfer
from resultsfs.errors import (
    ContentMismatch,
    ContentMissing,
    ContentTooLarge,
    StoreError,
    StoreUnavailable,
)
from resultsfs.observer import Observer
from resultsfs.progress import Progress
from resultsfs.retry import RetryPolicy, Stop, never
from resultsfs.settings import Settings
from resultsfs.store_backend import Backend, Entry, Part, Taken, Upload, check_url, default_url, make, unheard
from resultsfs.store_errors import translated, writing
from resultsfs.store_names import Key, Manifest
from resultsfs.units import format_size

__all__ = ["Key", "Manifest", "Probe", "Store", "default_url"]

T = TypeVar("T")
Chunks = Callable[[], Iterator[bytes]]
Moved = Callable[[int], None]

BLOCK = 4 << 20
"""Bytes of one request when content is read; it is kept whole in memory."""
MANIFEST_LIMIT = 16 << 20
"""Bytes of the largest manifest that is read: some 50,000 results."""

_ASK_FIRST = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Probe:
    """What `Store.probe` learnt: seconds to write and to read back, and how far the store's clock is ahead of ours.

    `clock_skew` is None where the store tells no time; S3 tells whole seconds, so less than two mean nothing.
    """

    url: str
    write_seconds: float
    read_seconds: float
    clock_skew: float | None


class Store:
    """Content of all namespaces in one place. Safe to use from several threads, not across a fork.

    All methods raise StoreUnavailable when the retries are used up, StoreRefused for what retrying cannot mend, and
    ContentMissing for what is not there.
    """

    def __init__(self, url: str, settings: Settings, backend: Callable[[], Backend]) -> None:
        self.url = url
        self._settings = settings
        self._make = backend
        self._backend: Backend | None = None
        self._lock = threading.Lock()
        self._retry = RetryPolicy(settings.store_retries)
        self._progress = Progress()

    @classmethod
    def open(cls, settings: Settings) -> Store:
        """The store of these settings; nothing is asked of it yet, its library is loaded at the first request.

        Raises InvalidSetting for a URL that names no store we know, or one whose extra is not installed.
        """
        url = check_url(settings.store or default_url())
        return cls(url, settings, lambda: make(url, settings))

    @property
    def backend(self) -> Backend:
        """The backend, made at the first use."""
        if self._backend is None:
            with self._lock:
                if self._backend is None:
                    with translated(f"store {self.url}"):
                        self._backend = self._make()
        return self._backend

    def observe(self, observer: Observer) -> None:
        """Tell an observer of each request that is tried again."""
        self._retry.retried = observer.retried

    def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        with self._lock:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def _call(self, action: Callable[[], T], what: str, stop: Stop = never) -> T:
        return self._retry.call(action, f"{what} in {self.url}", stop)

    def _write(self, action: Callable[[], T], what: str, stop: Stop = never) -> T:
        """A request that stores: its failure is never ContentMissing."""
        with writing(f"{what} in {self.url}"):
            return self._call(action, what, stop)

    # -- content ------------------------------------------------------------------------------------------------

    def put(self, key: Key, chunks: Chunks, size: int, *, moved: Moved | None = None, stop: Stop | None = None) -> None:
        """Store `size` bytes from `chunks()` under `key`: durable, whole and proven when it returns.

        `chunks` may be called again for another attempt. `moved(n)` is told, from any thread, of `n` bytes more
        that are on their way: taken by the connection, or written. It is a sign of life, no receipt: bytes of a request
        that failed are not told again when they are sent again, here or by a later put, until the store acknowledges
        their part (`n` is 0 where all of it was told). Content that is there already is not sent again. Raises UploadAbandoned, with nothing stored,
        when the bytes are not the key's, and soon after `stop()` is true.
        """
        stop = stop or never
        moved = moved or _ignore
        if size > _ASK_FIRST and self._is_stored(key, size, stop):
            moved(size)
        elif size <= self._settings.store_part_size:
            source = transfer.Checked(chunks(), key.sha256, size)
            data = b"".join(source)
            source.verify()
            self._put(key.path, data, stop, self._told(key, 0, moved))
            moved(self._progress.acknowledged(key.path, 0, size))
        else:
            self._put_large(key, chunks, size, moved, stop)

    def _told(self, key: Key, number: int, moved: Moved) -> Taken:
        """What tells `moved` of the bytes of a part that the connection has taken for the first time."""

        def taken(count: int) -> None:
            if new := self._progress.taken(key.path, number, count):
                moved(new)

        return taken

    def _put(self, path: str, data: bytes, stop: Stop = never, taken: Taken = unheard) -> None:
        self._write(lambda: self.backend.put(path, data, stop, taken), f"store {path}", stop)

    def _is_stored(self, key: Key, size: int, stop: Stop) -> bool:
        try:
            return self._call(lambda: self.backend.size(key.path, stop), f"ask for {key}", stop) == size
        except ContentMissing:
            return False

    def _put_large(self, key: Key, chunks: Chunks, size: int, moved: Moved, stop: Stop) -> None:
        what = f"store {key} ({format_size(size)})"

        parallel = self.backend.parallel

        def begin() -> Upload:
            return self.backend.upload(key.path, size, stop)

        def write(upload: Upload, number: int, part: Part, stop: Stop) -> None:
            taken = self._told(key, number, moved)
            if parallel:
                self._write(lambda: upload.write(number, part, stop, taken), f"{what}, part {number + 1}", stop)
            else:
                upload.write(number, part, stop, taken)
            moved(self._progress.acknowledged(key.path, number, len(part)))

        def attempt() -> None:
            upload = self._write(begin, what, stop) if parallel else begin()
            try:
                source = transfer.Checked(chunks(), key.sha256, size)
                concurrency = self._settings.store_concurrency if parallel else 1
                transfer.send(iter(source), upload.part_size, concurrency, functools.partial(write, upload), stop)
                source.verify()
                if parallel:
                    with writing(f"complete {key} in {self.url}"):
                        self._complete(upload, key, size, stop)
                else:
                    upload.complete(stop)
            except BaseException:
                self._abort(upload, what)
                raise

        if parallel:  # each request is tried again by itself
            attempt()
        else:  # what a part left behind when it failed is unknown: only the whole can be tried again
            self._write(attempt, what, stop)

    def _complete(self, upload: Upload, key: Key, size: int, stop: Stop) -> None:
        """Complete; where an answer was lost and the upload is unknown afterwards, what is stored decides."""
        try:
            self._call(lambda: upload.complete(stop), f"complete {key}", stop)
        except (StoreUnavailable, ContentMissing):
            if not self._is_stored(key, size, stop):
                raise

    def _abort(self, upload: Upload, what: str) -> None:
        """Abort; a failure must not hide why, and what is left is removed by `abort_stale`."""
        try:
            with translated(f"abort: {what} in {self.url}"):
                upload.abort()
        except StoreError as error:
            _log.warning("an unfinished upload is left behind: %s", error)

    def size(self, key: Key, *, stop: Stop = never) -> int:
        """Bytes of a content. Raises ContentMissing."""
        return self._call(lambda: self.backend.size(key.path, stop), f"ask for {key}", stop)

    def stream(
        self, key: Key, offset: int = 0, size: int | None = None, *, stop: Stop = never
    ) -> Generator[bytes, None, None]:
        """The bytes from `offset` on, read ahead by several requests; not verified.

        `size`, where known, saves asking; it ends with UploadAbandoned soon after `stop()` is true. Raises ContentMissing; StoreUnavailable where the store ends too early.
        """
        if offset < 0:
            raise ValueError(f"offset is {offset}: expected at least 0")
        end = self.size(key, stop=stop) if size is None else size
        return transfer.receive(
            functools.partial(self._read, key.path),
            offset,
            end,
            BLOCK,
            self._settings.store_concurrency,
            stop,
        )

    def _read(self, path: str, start: int, into: memoryview, stop: Stop) -> None:
        what = f"read {path}"

        def read() -> None:
            count = self.backend.read(path, start, into, stop)
            if count != len(into):
                raise StoreUnavailable(f"{what} in {self.url}: {count} bytes came of the {len(into)} from {start}")

        self._call(read, what, stop)

    def _read_small(self, path: str, size: int) -> bytes:
        data = bytearray(size)
        if size:
            self._read(path, 0, memoryview(data), never)
        return bytes(data)

    def verified(self, key: Key, size: int | None = None, *, stop: Stop = never) -> Generator[bytes, None, None]:
        """The whole content; its last block comes only when the SHA-256 of all is the key's.

        Raises ContentMismatch instead of that block, so that wrong content never ends like a right one.
        """
        return transfer.verified(self.stream(key, 0, size, stop=stop), key.sha256, f"content {key}")

    def fetch(self, key: Key, limit: int) -> bytes:
        """The whole content, verified. Raises ContentTooLarge beyond `limit` bytes, before it is read."""
        size = self.size(key)
        if size > limit:
            raise ContentTooLarge(f"content {key} has {size} bytes, of which at most {limit} can be taken here")
        return b"".join(self.verified(key, size))

    def presigned(self, key: Key, seconds: int) -> str | None:
        """A URL by which anybody can read a content for so long; None where the store cannot sign."""
        return self._call(lambda: self.backend.sign(key.path, seconds), f"sign {key}")

    # -- runs ---------------------------------------------------------------------------------------------------

    def runs(self, namespace: str | None = None) -> Iterator[tuple[str, UUID]]:
        """All (namespace, run) of which something is stored, or those of one namespace."""
        tops = self._list("") if namespace is None else [Entry(names.namespace_path(namespace), None)]
        for top in tops:
            if not self._is_ours(top, "", top.size is None and names.is_namespace(top.name)):
                continue
            for entry in self._list(top.name):
                run = names.as_uid(entry.name)
                if self._is_ours(entry, top.name, entry.size is None and run is not None) and run is not None:
                    yield top.name, run

    def contents(self, namespace: str, run: UUID) -> Iterator[tuple[str, int]]:
        """(SHA-256, bytes) of all contents of a run."""
        path = names.run_path(namespace, run)
        for entry in self._list(path):
            if entry.name == names.MANIFESTS and entry.size is None:
                continue
            if self._is_ours(entry, path, names.is_sha256(entry.name)) and entry.size is not None:
                yield entry.name, entry.size

    def delete_run(self, namespace: str, run: UUID) -> None:
        """Remove all that is stored of a run; nothing to remove is no error."""
        path = names.run_path(namespace, run)
        self._call(lambda: self.backend.delete_tree(path), f"delete {path}")

    def put_manifest(
        self, namespace: str, run: UUID, taskrun: str, pod_uid: UUID, data: bytes, *, stop: Stop = never
    ) -> None:
        """Store (or replace) the list of what one TaskRun's pod spilled. Raises ContentTooLarge beyond 16 MiB."""
        path = names.manifest_path(namespace, run, taskrun, pod_uid)
        if len(data) > MANIFEST_LIMIT:
            raise ContentTooLarge(f"manifest {path} has {len(data)} bytes: at most {MANIFEST_LIMIT} are stored")
        self._put(path, data, stop)

    def manifests(self, namespace: str, run: UUID, taskrun: str | None = None) -> Iterator[Manifest]:
        """The manifests of a run, or of one TaskRun in it; those that are deleted meanwhile are left out."""
        path = names.manifests_path(namespace, run)
        for top in self._list(path):
            if taskrun not in (None, top.name):
                continue
            if not self._is_ours(top, path, top.size is None and names.is_taskrun(top.name)):
                continue
            below = f"{path}/{top.name}"
            for entry in self._list(below):
                pod_uid = names.as_pod_uid(entry.name)
                if not self._is_ours(entry, below, pod_uid is not None and entry.size is not None):
                    continue
                assert entry.size is not None and pod_uid is not None
                if entry.size > MANIFEST_LIMIT:
                    _log.warning("%s/%s has %d bytes: too large for a manifest", below, entry.name, entry.size)
                    continue
                try:
                    yield Manifest(top.name, pod_uid, self._read_small(f"{below}/{entry.name}", entry.size))
                except ContentMissing:
                    _log.info("%s/%s was deleted while its run was listed", below, entry.name)

    def _list(self, path: str) -> list[Entry]:
        return self._call(lambda: list(self.backend.list(path)), f"list {path or 'all'}")

    def _is_ours(self, entry: Entry, below: str, ours: bool) -> bool:
        if not ours and not entry.name.startswith("."):
            _log.warning("%s: %r is no name of ours and is left alone", below or self.url, entry.name)
        return ours

    def note(self, path: str) -> bytes | None:
        """A small file of our own (see store_names); None without one."""
        try:
            return self._read_small(path, self._call(lambda: self.backend.size(path, never), f"ask for {path}"))
        except ContentMissing:
            return None

    def put_note(self, path: str, data: bytes) -> None:
        """Store (or replace) a small file of our own."""
        self._put(path, data)

    def delete_note(self, path: str) -> None:
        """Remove a small file of our own, which may be gone already."""
        self._call(lambda: self.backend.delete(path), f"delete {path}")

    # -- the store itself ---------------------------------------------------------------------------------------

    def abort_stale(self, age: float) -> int:
        """Remove what uploads left behind that were begun more than `age` seconds ago; how many there were.

        Where the store itself forgets them (memory, Google Cloud Storage, Azure: within a week) there are none.
        """
        return self._call(lambda: self.backend.abort_stale(age), "clean")

    def probe(self) -> Probe:
        """Write a small object, read it back, delete it. Raises what stands in the way of real content."""
        path = f"{names.PROBES}/{uuid.uuid4()}"
        data = os.urandom(64)
        before, began = time.time(), time.monotonic()
        self._put(path, data)
        try:
            written = time.monotonic()
            middle = (before + time.time()) / 2
            found = self._read_small(path, len(data))
            read = time.monotonic()
            if found != data:
                raise ContentMismatch(f"store {self.url} returned other bytes than it was given")
            modified = self._call(lambda: self.backend.modified(path), f"ask for {path}")
        finally:
            self._call(lambda: self.backend.delete(path), f"delete {path}")
        skew = modified.timestamp() - middle if modified else None
        return Probe(self.url, written - began, read - written, skew)

    def location(self, key: Key) -> str:
        """The URL of a content, for people and other tools."""
        return f"{self.url.rstrip('/')}/{key.path}"


def _ignore(count: int) -> None:
    """Nobody asked."""
