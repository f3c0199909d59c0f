"""Collections: what one collector process reads, fixed when it opens its first result."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from resultsfs import frozen, manifest, message, publication
from resultsfs.collected import Collected
from resultsfs.collector import Collector
from resultsfs.publication import REFERENCE_COST, Candidate, Decision, Elements, Form, Plan
from resultsfs.record import Keep, Mode, ResultType
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
        self._items: dict[str, Collected] = {}
        kept = frozen.load(volume.spool.session, collector, self._reopened)
        if kept is None:
            names = volume.record.results if collector.publishes else ()
            found = (self._snapshot(name) for name in names)
            self._items = {item.name: item for item in found if item is not None}
            self._decide()
            self._commit()
        else:  # a server that died, or was replaced, has shown some of it perhaps
            self._begun, self._overfull = kept.begun, kept.overfull
            self._items = {item.name: item for item in kept.items}
            for item in self._items.values():
                if item.pending:
                    self._start_uploads(item)
        self.awaited = {item.source.inode for item in self._items.values() if item.pending and item.source is not None}
        self._by_path = {item.path: item.name for item in self._items.values()}
        if not any(item.pending for item in self._items.values()):
            self._let_go()
            self._settled.set()

    def _reopened(self, name: str, inode: int) -> FileSource:
        held = frozen.open_held(self._volume.spool.session, inode)
        return self._volume.file_source(self._volume.open_result(name) if held is None else held)

    def _commit(self) -> None:
        """Keep what is decided, then let the collector have it."""
        frozen.save(self._volume.spool.session, self._collector, self._begun, self._overfull, self._items.values())
        for item in self._items.values():
            item.commit()

    # -- what the filesystem asks -------------------------------------------------------------------------

    def name_at(self, path: str) -> str | None:
        """The result that the file at this path is, or leads to through links."""
        name = path.removeprefix("/")
        return name if name in self._volume.record.results else self._by_path.get(path)

    def read(self, name: str, given_up: Callable[[], bool]) -> bytes:
        """The publication of a result.

        Waits until what is spilled is durable, for as long as the store moves or `spill-deadline` has not
        passed. Raises OSError: ENOENT for what there is not or what an earlier collector has read already,
        EINTR when `given_up()` says that nobody waits any more.
        """
        item = self._items.get(name)
        if item is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if item.pending:
            self._wait(given_up)
        assert item.publication is not None
        return item.publication

    def published(self, name: str) -> bytes | None:
        """The publication of a result if it is known already."""
        item = self._items.get(name)
        return None if item is None else item.publication

    def delivered(self, name: str) -> None:
        """The collector has read a publication to its end: later ones need not carry it again."""
        item = self._items[name]
        if not item.cut:
            self._volume.delivered(item.entry())

    def abandon(self) -> None:
        """Nobody will read it any more: stop the uploads that are still under way."""
        for item in self._items.values():
            for upload in list(item.uploads.values()):
                upload.abandon()
        with self._lock:
            if self._manifest is not None:
                self._manifest.abandon()
            self._let_go()

    # -- deciding -----------------------------------------------------------------------------------------

    def _snapshot(self, name: str) -> Collected | None:
        """The result's file as it is now, or None where a collector finds nothing new."""
        volume = self._volume
        try:
            path = volume.resolve_result(name)
            descriptor = volume.open_result(name)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENXIO):
                volume.report("ResultNotAFile", name, f"result {name!r} is no regular file and is not collected")
            return None
        source = volume.file_source(descriptor)
        source.settle()
        digest = source.digest()
        size = source.size()
        content = None
        most = volume.limits().inline
        if size <= most:
            head = source.head(most + 1)
            if len(head) <= most:
                content, size, digest = head, len(head), hashlib.sha256(head).hexdigest()
            else:  # it has grown meanwhile
                size, digest = source.size(), None
        earlier = volume.spool.published.get(name)
        if digest is None and earlier is not None and earlier.size == size:
            digest = source.hash()  # after a restart of the daemon it may be the same content
        if digest is not None and earlier is not None and earlier.sha256 == digest:
            source.close()
            return None
        candidate = Candidate(
            name,
            size,
            message.json_cost(content) if content is not None else size,
            keep=volume.record.kept.get(name),
            chains=volume.settings.is_chains_name(name),
        )
        return Collected(name, path, source, size, content, digest, candidate)

    def _decide(self) -> None:
        limits = self._volume.limits()
        plan = self._plan()
        if plan.over_total and self._leave_to_others():
            plan = self._plan()
        asked: set[str] = set()
        # a type that is learned changes the plan, and a new plan may spill what nobody asked about yet
        while doubtful := [name for name in self._items if name not in asked and self._doubtful(name, plan)]:
            asked.update(doubtful)
            learned = [self._learn_type(name) for name in doubtful]
            if any(learned):
                plan = self._plan()
        for name, decision in plan.decisions.items():
            self._items[name].decision = decision
        self._explain(plan)
        for item in self._items.values():
            if item.decision.form is Form.INLINE:
                self._serve_inline(item, limits.inline)
            else:
                self._start_uploads(item)
        self._overfull = plan.over_total and message.kubelet_limit(self._volume.containers) < message.LIMIT
        self._fail_visibly(item for item in self._items.values() if item.shown is not None)

    def _leave_to_others(self) -> bool:
        """Tekton starts a step before the last one has collected: what that one is reading, this one need not carry."""
        others = [other._items for other in self._volume.collections()]
        left = [name for name, it in self._items.items() if any(name in of and of[name].carries(it) for of in others)]
        for name in left:
            self._items.pop(name).let_go()
        return bool(left)

    @staticmethod
    def _doubtful(name: str, plan: Plan) -> bool:
        return plan.decisions[name].form is not Form.INLINE or name in plan.too_large

    def _plan(self) -> Plan:
        return publication.plan([item.candidate for item in self._items.values()], self._volume.limits())

    def _learn_type(self, name: str) -> bool:
        """Ask for a spilled result's type if its content begins like JSON; True when that changes anything."""
        item = self._items[name]
        first = item.content[:1] if item.content is not None else item.file.head(1)
        if first not in (b"[", b"{") or item.candidate.keep is Keep.INLINE:
            return False
        declared = self._volume.type_of(name)
        if declared is ResultType.STRING:
            return False
        limit = self._volume.settings.skeleton_size_limit
        if item.content is None and item.size <= limit:
            # nobody keeps the file from growing meanwhile
            head = item.file.head(limit + 1)
            if len(head) <= limit:
                item.content, item.size, item.digest = head, len(head), hashlib.sha256(head).hexdigest()
            else:
                item.size, item.digest = max(item.file.size(), len(head)), None
        if item.content is None or publication.too_many_elements(item.content, self._volume.limits().inline):
            item.candidate = replace(item.candidate, type=declared)
            if declared is ResultType.OBJECT:
                self._volume.report(
                    "ResultTooLarge",
                    name,
                    f"object result {name!r} of {format_size(item.size)} is larger than skeleton-size-limit "
                    f"({format_size(limit)}) or has too many keys, and can only be published inline",
                )
            return True
        elements = Elements.parse(item.content, declared)
        item.candidate = replace(
            item.candidate,
            size=item.size,
            cost=message.json_cost(item.content),
            type=declared,
            elements=elements,
            malformed=elements is None,
        )
        if elements is None:
            self._volume.report(
                "ResultMalformed",
                name,
                f"result {name!r} of {format_size(item.size)} is declared as {declared} but its content is not a JSON "
                f"{declared} of strings; it is not spilled",
            )
        return True

    def _explain(self, plan: Plan) -> None:
        volume, record = self._volume, self._volume.record
        bound = "max-result-size" if record.mode is Mode.SIDECAR_LOGS else "the termination message"
        for name in sorted(plan.too_large):
            item = self._items[name]
            why = "it is used where nothing can resolve a reference" if item.candidate.keep else "it cannot be spilled"
            volume.report(
                "ResultTooLarge",
                name,
                f"result {name!r} ({format_size(item.size)}) does not fit {bound} of a pod with {volume.containers} "
                f"containers, and stays inline because {why}",
            )
        for name, decision in plan.decisions.items():
            if decision.form is not Form.INLINE and self._items[name].candidate.chains:
                volume.report(
                    "ChainsResultSpilled",
                    name,
                    f"result {name!r} ({format_size(self._items[name].size)}) is one that Tekton Chains reads, and was "
                    f"spilled because the results together do not fit {bound}",
                )

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
            uploads = [upload for item in self._items.values() for upload in list(item.uploads.values())]
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
                for item in self._items.values():
                    if item.pending and any(upload.failed for upload in item.uploads.values()):
                        self._give_up_on(item)
                self._commit()
                spilled = [item for item in self._items.values() if item.pending]
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
            spilled = [item for item in self._items.values() if item.pending]
            for item in spilled:
                item.staged = item.render(self._volume.record.run_uid)
            self._fail_visibly(spilled)
            self._commit()
            self._let_go()
            self._settled.set()

    def _let_go(self) -> None:
        for item in self._items.values():
            item.let_go()
        if self.awaited:
            self.awaited = set()
            self._volume.drop_held()

    def _fall_back(self) -> None:
        """The store did not take one byte for `spill-deadline`: what is not stored is served as it is."""
        with self._lock:
            for item in self._items.values():
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
            f"result {item.name!r} ({format_size(item.size)}) could not be spilled within spill-deadline "
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
                message.entry_cost(it.name, message.json_cost(it.shown) if it.shown else REFERENCE_COST)
                for it in self._items.values()
            )
            self._overfull = total > limits.total and message.kubelet_limit(volume.containers) < message.LIMIT
            self._fail_visibly([item])

    def _render_manifest(self) -> bytes:
        volume, record = self._volume, self._volume.record
        entries = dict(volume.spool.published)
        entries.update((item.name, item.entry()) for item in self._items.values() if not item.cut)
        return manifest.render(record, [entries[name] for name in record.results if name in entries])
