"""A volume: one TaskRun pod's results. Ties files, uploads and collectors together.

`docs/concurrency.md` says which thread holds which lock and what may block.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from resultsfs import frozen, paths
from resultsfs.collection import Collection
from resultsfs.collector import Collector, is_dying
from resultsfs.disk import Disk
from resultsfs.errors import StoreError
from resultsfs.events import Event
from resultsfs.host import Host
from resultsfs.manifest import ManifestEntry
from resultsfs.nodes import Node, Nodes
from resultsfs.observer import Observer, Unobserved
from resultsfs.publication import Limits
from resultsfs.record import Keep, Mode, ResultType, VolumeRecord
from resultsfs.reference import RESULTS_DIR
from resultsfs.settings import Settings
from resultsfs.shown import Shown
from resultsfs.spool import Spool
from resultsfs.store import Store
from resultsfs.uploads import RESTARTS, Errand, FileSource, Source, Target, Upload
from resultsfs.workers import Workers

log = logging.getLogger(__name__)

_LINK_HOPS = 16
_RETRY_FIRST, _RETRY_LAST = 2.0, 60.0  # seconds until a failed background upload is tried again


class Volume:
    """One TaskRun's results: files in the spool, content on its way to the store, what collectors read.

    `background` and `awaited` are the process's workers: a collector's uploads never queue behind others'.
    """

    def __init__(
        self,
        record: VolumeRecord,
        settings: Settings,
        spool: Spool,
        store: Callable[[], Store],
        host: Host,
        background: Workers,
        awaited: Workers,
        disk: Disk | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.record = record
        self.settings = settings
        self.spool = spool
        self.store = store
        self.host = host
        self.nodes = Nodes(settings, disk)
        self.observer: Observer = observer if observer is not None else Unobserved()
        self.nodes.scan(spool.files)
        self.write_back: Callable[[int], None] | None = None
        """Has the kernel write back the file with an inode number, where it holds writes back. Raises OSError."""
        self.last_error: Exception | None = None
        """What the store answered to the latest upload that failed."""
        self.last_moved = time.monotonic()
        """When the store last accepted a byte from this volume (monotonic seconds)."""
        self._background = background
        self._awaited = awaited
        self._lock = threading.Lock()
        self._collecting = threading.Lock()
        self._uploads: dict[int, Upload] = {}  # by inode: the background upload of a result's file
        self._collections: dict[Collector, Collection] = {}
        self._types: Mapping[str, ResultType] | None = record.types or None
        self._containers_asked = False
        self._containers = record.containers
        self._reported: set[tuple[str, str]] = set()
        self._errands: list[Errand] = []
        self._closed = False
        self.shown = Shown(spool.session)
        self._retry = _RETRY_FIRST
        self._target = Target(
            store, record.namespace, record.run_uid, self._moved, self._upload_failed, self.observer.uploaded
        )
        for name in record.results:  # what a predecessor did not get round to
            self._background.submit(partial(self._consider, name))

    # -- what files do ------------------------------------------------------------------------------------

    def written(self, node: Node) -> None:
        """The last writer of a file closed it: after `spill-delay`, see whether it is worth uploading."""
        if self._spills(node.size):
            generation = node.generation
            self._background.submit(partial(self._quiet, node, generation), self.settings.spill_delay)

    def named(self, name: str) -> None:
        """A file has come to stand under a result's name without being written (rename, link)."""
        if name in self.record.results:
            self._background.submit(partial(self._consider, name), self.settings.spill_delay)

    def _quiet(self, node: Node, generation: int) -> None:
        if node.generation == generation and node.writers == 0:
            for name in self.record.results:
                self._consider(name, node.inode)

    def _spills(self, size: int) -> bool:
        return size > self.settings.result_size_threshold

    def _consider(self, name: str, inode: int | None = None) -> None:
        """Upload a result in the background if it is one that a collector would find spilled.

        What begins like JSON may be an array or object, of which elements are spilled: while the types are not known it is
        left to the collector, for nobody is asked here.
        """
        if self._closed or self.record.kept.get(name) is Keep.INLINE or self.settings.is_chains_name(name):
            return
        try:
            descriptor = self.open_result(name)
        except OSError:
            return  # gone, or no regular file: the collector decides
        found = os.fstat(descriptor)
        ours = inode in (None, found.st_ino) and self._spills(found.st_size)
        if not ours or (os.pread(descriptor, 1, 0) in (b"[", b"{") and not self._is_string(name)):
            os.close(descriptor)
            return
        with self._lock:
            current = self._uploads.get(found.st_ino)
            source = self.file_source(descriptor)
            if source.digest() in self.spool.stored or (
                current is not None and current.state == source.state() and not current.failed
            ):
                source.close()
                return
            if current is not None and not current.persistent:
                current.abandon()
            upload = Upload(source, self._target, source.digest())
            self._uploads[found.st_ino] = upload
        upload.run()
        if upload.stored is not None:
            self._retry = _RETRY_FIRST
        elif not self._closed:
            self._background.submit(partial(self._consider, name), self._retry)
            self._retry = min(self._retry * 2, _RETRY_LAST)

    def _is_string(self, name: str) -> bool:
        types = self._types
        return types is not None and types.get(name, ResultType.STRING) is ResultType.STRING

    def file_source(self, descriptor: int) -> FileSource:
        """A source for an open spool file; takes the descriptor over."""
        node = self.nodes.get(os.fstat(descriptor))
        return FileSource(descriptor, node, self.spool, self.settle)

    def settle(self, node: Node) -> None:
        """Fetch what the kernel holds back of a file that is open for writing, until there is nothing more or a few
        times: then the spool has had a state that the file had too."""
        if self.write_back is None:
            return
        for _ in range(RESTARTS):
            generation = node.generation
            if node.writers == 0:
                return
            try:
                self.write_back(node.inode)
            except OSError as error:
                log.warning("what a step is still writing may be missing from what is collected: %s", error.strerror)
                return
            if node.generation == generation:
                return

    # -- what collectors ask ------------------------------------------------------------------------------

    def collection(self, collector: Collector) -> Collection:
        """What this collector process reads, fixed at its first call. Asks the host, reads small files."""
        with self._collecting:
            existing = self._collections.get(collector)
            if existing is not None:
                return existing
            dead = [found for found in self._collections if is_dying(found.pid)]
            forgotten = [self._collections.pop(found) for found in dead]
            if not frozen.is_kept(self.spool.session, collector):
                self._ask_containers()
            fresh = self._collections[collector] = Collection(self, collector)
            self.shown.came(collector)
        for collection in forgotten:
            collection.abandon()
        return fresh

    def collections(self) -> list[Collection]:
        """Those of collectors that lived when the last one came."""
        return list(self._collections.values())

    def hold_awaited(self, directory: int, name: str, inode: int) -> None:
        """A file is about to lose a name; if a collector waits until it is stored, another server could still do so."""
        if any(inode in collection.awaited for collection in self.collections()):
            try:
                frozen.hold(self.spool.session, directory, name, inode)
            except OSError as error:
                log.warning("a result that is being stored would not outlive this server: %s", error.strerror)

    def drop_held(self) -> None:
        """Let go of nameless files that no collector awaits any more."""
        collections = self.collections()
        frozen.drop_held(self.spool.session, lambda inode: any(inode in found.awaited for found in collections))

    def limits(self) -> Limits:
        """What bounds one collector's publications."""
        threshold = self.settings.result_size_threshold
        if self.record.mode is Mode.SIDECAR_LOGS:
            return Limits.sidecar_logs(threshold, self.record.max_result_size)
        return Limits.termination_message(threshold, self._containers, self.record.reserve)

    @property
    def containers(self) -> int:
        """The pod's containers and init containers, as far as known."""
        return self._containers

    def _ask_containers(self) -> None:
        if not self._containers_asked:
            live = self.host.container_count()
            if live is not None:
                self._containers_asked = True
                self._containers = max(live, self.record.containers)

    def types(self) -> Mapping[str, ResultType] | None:
        """Declared types by result; None while the host cannot say. Only for a collection in the making: asks the host."""
        if self._types is None:
            self._types = self.host.result_types()
        return self._types

    def upload(self, source: Source) -> Upload:
        """An upload that a collector waits for: one that is under way for the same state, or a new one."""
        if not isinstance(source, FileSource):
            upload = Upload(source, self._target, persistent=True)
        else:
            state = source.state()
            with self._lock:
                current = self._uploads.get(state[0].inode)
                if current is not None and current.state == state and not source.mapped:
                    current.persistent = True
                    if not current.failed:
                        source.close()
                        return current
                upload = Upload(source, self._target, source.digest(), persistent=True)
                self._uploads[state[0].inode] = upload
        self._awaited.submit(upload.run)
        return upload

    def store_manifest(self, data: bytes) -> Errand:
        """Tell the store what this pod published, with a collector waiting; `resume_manifest` if it gives up."""
        errand = self._manifest_errand(data)
        self._awaited.submit(errand.run)
        return errand

    def resume_manifest(self, data: bytes) -> None:
        """Go on telling the store in the background."""
        errand = self._manifest_errand(data)
        with self._lock:
            self._errands.append(errand)
        self._background.submit(errand.run, _RETRY_FIRST)

    def _manifest_errand(self, data: bytes) -> Errand:
        record = self.record

        def put(stop: Callable[[], bool]) -> None:
            self.store().put_manifest(record.namespace, record.run_uid, record.taskrun, record.pod_uid, data, stop=stop)

        return Errand(put, self._upload_failed)

    def delivered(self, entry: ManifestEntry) -> None:
        """A collector has read this publication to its end."""
        self.spool.note_published(entry)
        self.observer.published(entry.size, spilled=entry.spilled)

    # -- where results are --------------------------------------------------------------------------------

    def resolve_result(self, name: str) -> str:
        """The path, within the volume, of the file that a result's name leads to, links inside followed.

        Raises OSError: ENOENT for a missing file and for a link that leaves the volume (which the collector
        follows in its own container, where we cannot look).
        """
        pending = [name]
        reached: list[str] = []
        for _hop in range(_LINK_HOPS * 16):
            if not pending:
                return "/" + "/".join(reached)
            part = pending.pop(0)
            if part == "..":
                if reached:
                    reached.pop()
                    continue
                back = paths.back_in(pending)
                if back is None:
                    break
                pending = back
                continue
            directory = paths.walk(self.spool.files, reached)
            try:
                target = os.readlink(part, dir_fd=directory)
            except OSError as error:
                if error.errno != errno.EINVAL:  # EINVAL: no link
                    raise
                reached.append(part)
                continue
            finally:
                os.close(directory)
            if target.startswith("/"):
                inside = target == RESULTS_DIR or target.startswith(RESULTS_DIR + "/")
                if not inside:
                    break
                reached, target = [], target.removeprefix(RESULTS_DIR)
            pending = paths.split(target) + pending
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def open_result(self, name: str) -> int:
        """A read-only descriptor of a result's file. Raises OSError as `resolve_result`; EPERM, EISDIR for
        what is no regular file."""
        return self.open_path(self.resolve_result(name))

    def open_path(self, path: str) -> int:
        """A read-only descriptor of the file at a path within the volume. Raises OSError as `open_result`."""
        with paths.parent_of(self.spool.files, path) as (directory, last):
            return paths.open_regular(directory, last, os.O_RDONLY)

    def inode_at(self, path: str) -> int | None:
        """The inode number of what is at a path within the volume; None where nothing is."""
        try:
            with paths.parent_of(self.spool.files, path) as (directory, last):
                return os.stat(last, dir_fd=directory, follow_symlinks=False).st_ino
        except OSError:
            return None

    # -- events, ends -------------------------------------------------------------------------------------

    def report(self, reason: str, result: str | None, text: str, *, warning: bool = True, about: str = "") -> None:
        """Send an Event, once for each reason and result, or each thing that it is `about`."""
        with self._lock:
            if (reason, result or about) in self._reported:
                return
            self._reported.add((reason, result or about))
        self.host.event(Event(reason, text, result, warning))

    def _moved(self, count: int) -> None:
        if count <= 0:
            return
        self.last_moved = time.monotonic()
        self.last_error = None

    def _upload_failed(self, error: StoreError | OSError) -> None:
        self.last_error = error
        self.observer.failed(type(error).__name__)
        self.report("StoreFailing", None, f"uploading to the store fails, and is tried again: {error}")

    def close(self) -> None:
        """Abandon what is being uploaded; the files stay in the spool. Idempotent."""
        self._closed = True
        with self._lock:
            uploads: list[Upload | Errand] = [*self._uploads.values(), *self._errands]
        with self._collecting:
            collections = list(self._collections.values())
        for upload in uploads:
            upload.abandon()
        for collection in collections:
            collection.abandon()
        self.nodes.close_all()
