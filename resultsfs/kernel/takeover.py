"""Taking over a mount from a server that died or was replaced: open files, hidden files, what collectors were shown.

All of it is found in the spool: `files/` and `hidden/` by inode numbers, the rest in `session/` (`slots`, `notes`,
`resultsfs.frozen`). Nodes are looked for when the kernel names them (`inherited`).
"""

from __future__ import annotations

import errno
import logging
import os

from resultsfs import frozen
from resultsfs.backing import Backing
from resultsfs.collector import Collector
from resultsfs.kernel import reply
from resultsfs.kernel.files import FileRequests
from resultsfs.kernel.notes import Notes
from resultsfs.kernel.passthrough import trial
from resultsfs.kernel.slots import Kind, Slot, Slots

log = logging.getLogger(__name__)

_LOST = 16  # backing ids at most that nobody noted: one for each server in a row that was killed while taking over


def begin(requests: FileRequests) -> None:
    """A new mount: whatever another one left is void. Raises OSError."""
    spool = requests.filesystem.volume.spool
    spool.begin()
    requests.begin(Slots(spool.session / "handles"), Notes(spool.session))


class TakeOver:
    """One take-over. Raises OSError when the spool cannot be read, and leaves nothing open then."""

    def __init__(self, requests: FileRequests) -> None:
        self._requests = requests
        self._filesystem = requests.filesystem
        self._spool = requests.filesystem.volume.spool
        self._slots = Slots(self._spool.session / "handles")
        try:
            self._notes = Notes(self._spool.session)
        except BaseException:
            self._slots.close()
            raise
        self._shown = [Collector(slot.pid, slot.started) for slot in self._slots.found if slot.kind == Kind.PUBLICATION]

    def restore(self) -> None:
        """Make tables and handles as they were. What cannot be opened again is logged, and answers EIO."""
        self._requests.begin(self._slots, self._notes)
        try:
            self._restore_all()
        except BaseException:
            self._requests.close()  # another server, or this one, tries again
            raise

    def _restore_all(self) -> None:
        requests, notes = self._requests, self._notes
        self._forget_the_dead()
        requests.table.inherit(self._spool.files, notes.references)
        requests.views.inherit(notes)
        self._restore_hidden()
        for slot in self._slots.found:
            self._restore(slot)
        for collector in self._shown:
            self._filesystem.volume.shown.closed(collector)
        if requests.passthrough is not None:
            self._let_go_of_files(requests.passthrough)

    def _let_go_of_files(self, backing: Backing) -> None:
        """Backing ids that no handle has: one that was about to be let go of, and those that were not noted yet.

        The kernel counts ids up, so what a server opened last before it was killed is next to what is opened now.
        """
        try:
            latest = trial(backing, str(self._spool.directory / "copies"))
        except OSError as error:
            log.warning("files may stay registered until the mount ends: %s", error.strerror)
            latest = 0
        kept = {0, *(slot.backing_id for slot in self._slots.found)}
        for number in {self._slots.closing, *range(max(1, latest - _LOST), latest)} - kept:
            try:
                backing.close(number)
            except OSError as error:
                if error.errno != errno.ENOENT:  # the predecessor has done so
                    log.warning("backing file %d is not let go of: %s", number, error.strerror)

    def __len__(self) -> int:
        return len(self._slots.found)

    def _forget_the_dead(self) -> None:
        shown = self._filesystem.volume.shown
        for collector in self._shown:
            shown.opened(collector)  # until they are open again, for what follows
        for collector in frozen.collectors(self._spool.session):
            if shown.matters(collector):
                self._filesystem.volume.collection(collector)  # goes on storing what it waits for
            else:
                frozen.forget(self._spool.session, collector)
        self._filesystem.volume.drop_held()
        self._notes.prune()

    def _restore_hidden(self) -> None:
        """Files without a name stay while they are open; where the last name did not go, the hidden one goes."""
        opened = {slot.nodeid for slot in self._slots.found}
        for name in os.listdir(self._spool.hidden):
            inode = os.stat(name, dir_fd=self._spool.hidden, follow_symlinks=False).st_ino
            if inode in opened and not self._requests.table.named(inode):
                self._requests.table.hide(self._requests.table.nameless(inode), name)
                self._filesystem.hidden_again(name, inode)
            else:
                os.unlink(name, dir_fd=self._spool.hidden)

    def _restore(self, slot: Slot) -> None:
        try:
            view = self._requests.views.get(slot.nodeid)
            path = self._requests.path(slot.nodeid) if view is None else view.path
            if slot.kind == Kind.PUBLICATION:
                name = self._filesystem.volume.record.results[slot.result]
                collector = Collector(slot.pid, slot.started)
                self._filesystem.reopen_publication(slot.fh, path, collector, name)
            elif slot.kind == Kind.REFERENCE:
                self._filesystem.reopen_reference(slot.fh, path)
            else:
                self._filesystem.reopen(slot.fh, path, slot.flags)
                told = self._notes.cut.get(slot.nodeid)
                if told is not None:
                    self._filesystem.exceeded_before(slot.fh, told)
        except OSError as error:
            log.error("an open file is lost: %s", error)  # noqa: TRY400 - the spool has changed underneath
            self._filesystem.lose(slot.fh)
        try:
            self._requests.inherit(slot)
        except OSError as error:
            log.error("an open file has no node: %s", error)  # noqa: TRY400

    def last_answer(self) -> tuple[int, bytes] | None:
        """The answer that may not have been given: request and body of the latest open. None when there is none."""
        slot = self._slots.last
        if slot is None:
            return None
        opened = reply.opened(slot.fh, slot.answered, slot.backing_id)
        return slot.unique, (self._requests.entry(slot.nodeid) if slot.made else b"") + opened
