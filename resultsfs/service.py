"""All that one served volume needs, and what the volumes of one process share."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Generic, TypeVar

from resultsfs.cache import Cache
from resultsfs.collector import Identify
from resultsfs.disk import Disk, Unbounded
from resultsfs.events import Event
from resultsfs.filesystem import Caller, ResultsFilesystem
from resultsfs.host import Host, RecordHost
from resultsfs.keeping import append_line
from resultsfs.limits import Descriptors
from resultsfs.observer import Observer, Unobserved
from resultsfs.record import VolumeRecord
from resultsfs.refs import References
from resultsfs.settings import Settings
from resultsfs.spool import Spool
from resultsfs.store import Store
from resultsfs.volume import Volume
from resultsfs.workers import Workers

T = TypeVar("T")
log = logging.getLogger(__name__)

_OF_THE_STORE = tuple(spec.name for spec in fields(Settings) if spec.name.startswith(("store", "s3_")))


class EventFile:
    """Appends events to a file as JSON lines, each with its time (seconds since the epoch)."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def __call__(self, event: Event) -> None:
        """Write the event, and log it: the log alone has it where the disk is full."""
        log.log(logging.WARNING if event.warning else logging.INFO, "%s: %s", event.reason, event.message)
        line = {
            "reason": event.reason,
            "message": event.message,
            "result": event.result,
            "warning": event.warning,
            "when": time.time(),
        }
        with self._lock:
            try:
                append_line(self._descriptor, json.dumps(line).encode())
            except OSError as error:
                log.warning("the event %s is in this log only: %s", event.reason, error.strerror)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Once(Generic[T]):
    """Makes a thing at its first use, once, from any thread; a failure is raised, and tried again next time."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: T | None = None

    def __call__(self) -> T:
        """The thing."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    @property
    def made(self) -> T | None:
        """The thing if it has been made."""
        return self._made


class Portion(Workers):
    """One volume's part in the threads of all: its jobs end with it, and the others' go on."""

    def __init__(self, whole: Workers) -> None:
        super().__init__(0, "portion")
        self._whole = whole
        self._running = 0

    def submit(self, job: Callable[[], None], delay: float = 0.0) -> None:
        """As `Workers.submit`."""
        if not self._closed:
            self._whole.submit(lambda: self._run(job), delay)

    def _run(self, job: Callable[[], None]) -> None:
        with self._changed:
            if self._closed:
                return
            self._running += 1
        try:
            job()
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def close(self, timeout: float = 10.0) -> None:
        """Drop what is queued and wait for what runs."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._running == 0, timeout)

    @property
    def idle(self) -> bool:
        """Whether nothing runs any more."""
        return self._running == 0


class Shared:
    """What the volumes of one process share: threads, and a store's client and cache where the settings allow it.

    Volumes whose settings of the store are equal share a client, those of one store a cache in a directory below
    `caches` (its limit is the first one's). `upload_workers` bounds the uploads of all. All is told to one observer
    and counted on one disk.
    """

    def __init__(
        self, caches: Path, upload_workers: int, observer: Observer | None = None, disk: Disk | None = None
    ) -> None:
        self.observer: Observer = observer if observer is not None else Unobserved()
        self.disk: Disk = disk if disk is not None else Unbounded()
        self.descriptors = Descriptors()
        self._directory = caches
        self._lock = threading.Lock()
        self._stores: dict[tuple[object, ...], Once[Store]] = {}
        self._cached: dict[str, Once[Cache]] = {}
        self.background, self.awaited = (Workers(upload_workers, kind) for kind in ("background", "awaited"))

    def store(self, settings: Settings) -> Callable[[], Store]:
        """The client of a store, made at its first use."""
        key = tuple(getattr(settings, name) for name in _OF_THE_STORE)
        with self._lock:
            return self._stores.setdefault(key, Once(lambda: self._open(settings)))

    def _open(self, settings: Settings) -> Store:
        store = Store.open(settings)
        store.observe(self.observer)
        return store

    def cache(self, settings: Settings) -> Callable[[], Cache]:
        """The cache of a store, made at its first use."""
        store = self.store(settings)
        place = f"{settings.store}\n{settings.s3_endpoint}"
        directory = self._directory / hashlib.sha256(place.encode()).hexdigest()[:16]
        with self._lock:
            return self._cached.setdefault(
                place, Once(lambda: self._make(directory, settings.cache_size_limit, store()))
            )

    def _make(self, directory: Path, limit: int, store: Store) -> Cache:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Cache(directory, limit, store, self.observer, self.disk)

    def caches(self) -> list[Cache]:
        """The caches that have been made."""
        with self._lock:
            return [cache.made for cache in self._cached.values() if cache.made is not None]

    @property
    def queued(self) -> int:
        """Jobs that are due and wait for a thread."""
        return self.background.queued + self.awaited.queued

    def close(self, timeout: float = 10.0) -> None:
        """Stop what runs, waiting up to `timeout` seconds for each kind; to be called after the volumes' `close`."""
        for workers in (self.background, self.awaited):
            workers.close(timeout)
        for cache in self.caches():
            cache.close()
        for store in self._stores.values():
            if store.made is not None:
                store.made.close()


class Service:
    """One served volume, and the order in which it ends. Without `shared` it has everything for itself; without a
    `host` of its own, types and containers are the record's, and events go to the spool's `events.jsonl`.

    Making it raises OSError, and leaves nothing open.
    """

    def __init__(
        self,
        record: VolumeRecord,
        spool_directory: Path,
        settings: Settings,
        identify: Identify,
        caller: Callable[[], Caller],
        shared: Shared | None = None,
        host: Host | None = None,
    ) -> None:
        with ExitStack() as made:
            self.spool = Spool(spool_directory)
            made.callback(self.spool.close)
            self.spool.write_record(record)
            self._events = EventFile(spool_directory / "events.jsonl")
            made.callback(self._events.close)
            self._own = None if shared is not None else Shared(spool_directory / "cache", settings.upload_workers)
            if self._own is not None:
                made.callback(self._own.close)
            common = shared or self._own
            assert common is not None
            store, cache = common.store(settings), common.cache(settings)
            host = host or RecordHost(record, self._events)
            self._portions = background, awaited = Portion(common.background), Portion(common.awaited)
            common_parts = (common.disk, common.observer)
            self.volume = Volume(record, settings, self.spool, store, host, background, awaited, *common_parts)
            references = References(record.namespace, store, cache)
            self.filesystem = ResultsFilesystem(self.volume, references, identify, caller, common.descriptors)
            made.pop_all()

    def close(self, timeout: float = 10.0) -> None:
        """Stop uploads and downloads, waiting up to `timeout` seconds for each kind; the spool's files stay."""
        self.volume.close()
        for portion in self._portions:
            portion.close(timeout)
        self.filesystem.close()
        if self._own is not None:
            self._own.close(timeout)
        if not all(portion.idle for portion in self._portions):
            # a descriptor that is closed under an upload may be another file's by the next call
            log.warning("volume %s: an upload has not ended; its descriptors stay", self.volume.record.volume_id)
            return
        self.spool.close()
        self._events.close()
