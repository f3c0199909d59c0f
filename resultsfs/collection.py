"""Collections: what one collector process reads, fixed when it opens its first result."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from resultsfs import explaining, frozen, manifest, message, publication, snapshot, weighing
from resultsfs.collected import Collected
from resultsfs.collector import Collector
from resultsfs.frozen import Frozen
from resultsfs.publication import REFERENCE_COST, Decision, Form
from resultsfs.record import Keep
from resultsfs.units import format_size
from resultsfs.uploads import Errand, FileSource, MemorySource, Source

if TYPE_CHECKING:
    from resultsfs.volume import Volume

_POLL = 0.1  # seconds between looks at whether the collector still lives


class Collection:
    """One collector process's view of all results.

    Made at its first open: which results it reads, in which form, and all inline bytes are fixed then. What
    is spilled is read once all of the collection's uploads are durable and the manifest is written.
    """

    def __init__(self, volume: Volume, collector: Collector) -> None:
        self._volume = volume
        self._collector = collector
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._manifest: Errand | None = None
        self._manifest_data = b""
        self._begun = time.monotonic()
        self._overfull = False
        self.awaited: set[int] = set()
        """Inode numbers of files that are still to be stored."""
        self._items: list[Collected] = []
        kept = frozen.load(volume.spool.session, collector, self._reopened)
        if kept is None:
            seen = snapshot.take(volume) if collector.publishes else snapshot.Snapshot()
            self._items, self._found, self._unreadable = seen.items, seen.found, seen.unreadable
            self._decide()
            self._commit()
        else:  # a server that died, or was replaced, has shown some of it perhaps
            self._begun, self._overfull = kept.begun, kept.overfull
            self._items, self._found, self._unreadable = kept.items, kept.files, kept.unreadable
            for item in self._items:
                if item.pending:
                    self._start_uploads(item)
        self.awaited = {item.source.inode for item in self._items if item.pending and item.source is not None}
        self._by_name = {name: item for item in self._items for name in item.names}
        if not any(item.pending for item in self._items):
            self._let_go()
            self._settled.set()

    def _reopened(self, name: str, inode: int) -> FileSource:
        held = frozen.open_held(self._volume.spool.session, inode)
        return self._volume.file_source(self._volume.open_result(name) if held is None else held)

    def _commit(self) -> None:
        """Keep what is decided, then let the collector have it."""
        kept = Frozen(self._begun, self._overfull, self._found, self._unreadable, self._items)
        frozen.save(self._volume.spool.session, self._collector, kept)
        for item in self._items:
            item.commit()

    # -- what the filesystem asks -------------------------------------------------------------------------

    def name_at(self, path: str) -> str | None:
        """The result that the file at this path is, or leads to through links."""
        name = path.removeprefix("/")
        if name in self._volume.record.results:
            return name
        found = next((found for found in self._found if found.path == path), None)
        if found is None:  # the native session knows one of a file's hard links, and not the one that was taken
            inode = self._volume.inode_at(path)
            found = next((found for found in self._found if found.inode == inode), None)
        return None if found is None else found.name

    def read(self, name: str, given_up: Callable[[], bool]) -> bytes:
        """The publication of a result.

        Waits until what is spilled is durable, for as long as the store moves or `spill-deadline` has not
        passed. Raises OSError: ENOENT for what there is not or what an earlier collector has read already, what reading the file gave,
        EINTR when `given_up()` says that nobody waits any more.
        """
        item = self._by_name.get(name)
        if item is None:
            code = self._unreadable.get(name, errno.ENOENT)
            raise OSError(code, os.strerror(code), name)
        if item.pending:
            self._wait(given_up)
        assert item.publication is not None
        return item.publication

    def published(self, name: str) -> bytes | None:
        """The publication of a result if it is known already."""
        item = self._by_name.get(name)
        return None if item is None else item.publication

    def delivered(self, name: str) -> None:
        """The collector has read a publication to its end: later ones need not carry it again.

        It has so under all names of the file, for it may have come to this one by a link at another.
        """
        item = self._by_name[name]
        if not item.cut and not item.delivered:
            item.delivered = True
            for entry in item.entries():
                self._volume.delivered(entry)

    def abandon(self) -> None:
        """Nobody will read it any more: stop the uploads that are still under way."""
        for item in self._items:
            for upload in list(item.uploads.values()):
                upload.abandon()
        with self._lock:
            if self._manifest is not None:
                self._manifest.abandon()
            self._let_go()

    # -- deciding -----------------------------------------------------------------------------------------

    def _decide(self) -> None:
        limits = self._volume.limits()
        plan = weighing.plan(self._volume, self._items)
        if plan.over_total and self._leave_to_others():
            plan = weighing.plan(self._volume, self._items)
        plan = weighing.learn_types(self._volume, self._items, plan)
        for item in self._items:
            item.decision = plan.decisions[item.name]
        explaining.explain(self._volume, self._items, plan)
        for item in self._items:
            if item.decision.form is Form.INLINE:
                self._serve_inline(item, limits.inline)
            else:
                self._start_uploads(item)
        self._overfull = plan.over_total and message.kubelet_limit(self._volume.containers) < message.LIMIT
        self._fail_visibly(item for item in self._items if item.shown is not None)

    def _leave_to_others(self) -> bool:
        """Tekton starts a step before the last one has collected: what that one is reading, this one need not carry."""
        others = self._volume.collections()
        mine = []
        for item in self._items:
            if all(any(other.carries(name, item) for other in others) for name in item.names):
                item.let_go()
            else:
                mine.append(item)
        left, self._items = len(mine) < len(self._items), mine
        return left

    def carries(self, name: str, found: Collected) -> bool:
        """Whether this collector is shown, whole, the content that another one has found at a result's name."""
        item = self._by_name.get(name)
        return item is not None and item.carries(found)

    # -- publishing ---------------------------------------------------------------------------------------

    def _serve_inline(self, item: Collected, most: int) -> None:
        """Publish the content, cut one byte beyond what any limit lets through."""
        if item.content is None or len(item.content) > most:
            item.cut = True
            head = item.content if item.content is not None else item.file.head(most + 1)
            item.staged = head[: most + 1]
        else:
            item.staged = item.content

    def _fail_visibly(self, candidates: Iterable[Collected]) -> None:
        """Make a message that only the kubelet would cut, silently, fail Tekton's own check instead.

        One publication is lengthened beyond what Tekton allows; the message is refused whole, so it goes nowhere.
        """
        item = next(iter(candidates), None)
        if self._overfull and item is not None:
            item.staged = (item.shown or b"") + publication.filler(message.LIMIT)
            item.cut = True
            self._overfull = False

    def _start_uploads(self, item: Collected) -> None:
        volume = self._volume
        if item.decision.form is Form.SKELETON:
            assert item.candidate.elements is not None
            for at in item.decision.spilled:
                value = item.candidate.elements.values[at].encode()
                item.uploads[at] = volume.upload(MemorySource(value, volume.spool))
            return
        # in memory the snapshot is what is published, whatever happens to the file
        in_memory = item.content is not None
        source: Source = MemorySource(item.content or b"", volume.spool) if in_memory else item.file.duplicate()
        item.uploads[-1] = volume.upload(source)

    def _wait(self, given_up: Callable[[], bool]) -> None:
        """Wait for the uploads, then for the manifest; no lock is held meanwhile."""
        while not self._settled.is_set():
            uploads = [upload for item in self._items for upload in list(item.uploads.values())]
            waiting = next((upload.done for upload in uploads if not upload.done.is_set()), None)
            if waiting is None:
                manifest_written = self._conclude()
                if manifest_written is None or manifest_written.is_set():
                    self._publish()
                    return
                waiting = manifest_written
            waiting.wait(_POLL)
            if given_up():
                for upload in uploads:
                    upload.persistent = False
                raise OSError(errno.EINTR, os.strerror(errno.EINTR))
            quiet = time.monotonic() - max(self._begun, self._volume.last_moved)
            if quiet > self._volume.settings.spill_deadline and not waiting.is_set():
                self._fall_back()

    def _conclude(self) -> threading.Event | None:
        """All uploads have ended: give up on what failed, and have the store told what was spilled, if anything."""
        with self._lock:
            if self._manifest is None and not self._settled.is_set():
                for item in self._items:
                    if item.pending and any(upload.failed for upload in item.uploads.values()):
                        self._give_up_on(item)
                self._commit()
                spilled = [item for item in self._items if item.pending]
                if not spilled:
                    return None
                for item in spilled:
                    item.take_stored()
                self._manifest_data = self._render_manifest()
                self._manifest = self._volume.store_manifest(self._manifest_data)
            return self._manifest.done if self._manifest is not None else None

    def _publish(self) -> None:
        with self._lock:
            if self._settled.is_set():
                return
            spilled = [item for item in self._items if item.pending]
            for item in spilled:
                item.staged = item.render(self._volume.record.run_uid)
            self._fail_visibly(spilled)
            self._commit()
            self._let_go()
            self._settled.set()

    def _let_go(self) -> None:
        for item in self._items:
            item.let_go()
        if self.awaited:
            self.awaited = set()
            self._volume.drop_held()

    def _fall_back(self) -> None:
        """The store did not take one byte for `spill-deadline`: what is not stored is served as it is."""
        with self._lock:
            for item in self._items:
                if item.pending and any(upload.stored is None for upload in item.uploads.values()):
                    self._give_up_on(item)
            self._commit()
            if self._manifest is not None and not self._manifest.done.is_set():
                self._manifest.abandon()
                self._manifest.done.set()  # the references are durable: nobody waits for the list any longer
                self._volume.resume_manifest(self._manifest_data)
                self._volume.report(
                    "ManifestNotWritten",
                    None,
                    "the list of this TaskRun's results is not stored yet and is tried again: "
                    f"{self._volume.last_error or 'the store has not answered'}",
                )

    def _give_up_on(self, item: Collected) -> None:
        volume = self._volume
        for upload in item.uploads.values():
            upload.abandon()
        volume.report(
            "ResultSpillFailed",
            item.name,
            f"{item.label} ({format_size(item.size)}) could not be spilled within spill-deadline "
            f"({volume.settings.spill_deadline:g} s) and is published as it is, as without resultsfs: "
            f"{volume.last_error or 'the store has not answered'}",
        )
        limits = volume.limits()
        item.uploads.clear()
        item.decision = Decision(Form.INLINE)
        item.candidate = replace(item.candidate, keep=Keep.INLINE)
        self._serve_inline(item, limits.inline)
        if limits.total is not None and not item.cut:
            total = sum(
                message.entry_cost(name, message.json_cost(it.shown) if it.shown else REFERENCE_COST)
                for it in self._items
                for name in it.names
            )
            self._overfull = total > limits.total and message.kubelet_limit(volume.containers) < message.LIMIT
            self._fail_visibly([item])

    def _render_manifest(self) -> bytes:
        volume, record = self._volume, self._volume.record
        entries = dict(volume.spool.published)
        entries.update((entry.name, entry) for item in self._items if not item.cut for entry in item.entries())
        return manifest.render(record, [entries[name] for name in record.results if name in entries])
