"""One mount's conversation with the kernel: INIT, requests in, answers out, interruptions."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resultsfs.backing import Backing, Passthrough
from resultsfs.collector import is_dying
from resultsfs.errors import TakeOverRefused
from resultsfs.kernel import passthrough, reply, writeback
from resultsfs.kernel.files import MAX_IO, FileRequests
from resultsfs.kernel.handlers import handlers
from resultsfs.kernel.inhand import InHand, left_in_hand
from resultsfs.kernel.layout import Buffer, Malformed
from resultsfs.kernel.notes import Negotiated
from resultsfs.kernel.protocol import INIT_IN, INTERRUPT_IN, MAJOR, MINOR_MAX, MINOR_MIN, InitFlag, Opcode
from resultsfs.kernel.request import Later, Request, Wait, parse, serving
from resultsfs.kernel.takeover import TakeOver, begin
from resultsfs.kernel.writeback import WriteBack
from resultsfs.workers import Workers

log = logging.getLogger(__name__)

# Taken when the kernel offers them:
#   PARALLEL_DIROPS     a lookup in `.ref` that waits for the store must not hold up others in the directory
#   ATOMIC_O_TRUNC      one request less for each `> file`
#   ASYNC_READ, ASYNC_DIO, BIG_WRITES, MAX_PAGES   large requests, several on their way
#   READDIRPLUS_AUTO    entries come with attributes while somebody asks for those
#   CACHE_SYMLINKS      a link's text never changes
#   ABORT_ERROR         a read after an abort says ECONNABORTED
#   HAS_RESEND          a successor can ask for pending requests again
#   HANDLE_KILLPRIV_V2  set-id bits go here, so that the kernel need not ask after capabilities with each write
#   PASSTHROUGH         see `passthrough`
# Taken where there is no passthrough, which the kernel gives instead of it and not beside it: see `writeback`
#   WRITEBACK_CACHE     small writes travel together
#   DIRECT_IO_ALLOW_MMAP   a file whose writes may be refused, and so go one by one, can still be mapped
# Left alone:
#   AUTO_INVAL_DATA     nothing changes behind this kernel's back
#   POSIX_ACL           the volume offers `user.` attributes only
#   POSIX_LOCKS         locks among the processes of one machine are the kernel's own business
_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.ABORT_ERROR
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.INIT_EXT
    | InitFlag.HAS_RESEND
)
_INTERRUPT, _INIT, _READ = int(Opcode.INTERRUPT), int(Opcode.INIT), int(Opcode.READ)  # an enum's are slow to look up
_HELD_BACK = InitFlag.WRITEBACK_CACHE | InitFlag.DIRECT_IO_ALLOW_MMAP
_THREADS = {Wait.COLLECTION: 32, Wait.REFERENCE: 16, Wait.DISK: 4}
"""Threads of one mount at most for each kind of wait; more requests queue up."""


@dataclass(slots=True)
class _Pending:
    """A request that waits; `answered` when it was interrupted."""

    request: Request
    answered: bool = False


class Session:
    """One mount. `post` runs a function on the loop's thread; `ready` is called after INIT.

    `backing` registers files for passthrough, where that is not this process's to do. `mountpoint` is where this
    process sees the mount. With `take_over` the mount is one that another server has served, on the same descriptor:
    `ready` is called at once; raises TakeOverRefused where the kernel cannot ask again for what that server had in hand,
    OSError when the spool is gone. `without` are flags of INIT that are declined though the kernel offers them.

    All but the work of `Later` happens on the loop's thread.
    """

    buffer = memoryview(bytearray(MAX_IO + (1 << 16)))
    """Where requests are read to; a loop gives its sessions one."""
    alone = 0
    """Turns of one request that are left, because nothing else waited behind the last ones."""

    def __init__(
        self,
        descriptor: int,
        requests: FileRequests,
        post: Callable[[Callable[[], None]], None],
        ready: Callable[[], None],
        *,
        backing: Backing | None = None,
        mountpoint: str | None = None,
        take_over: bool = False,
        without: int = 0,
    ) -> None:
        self.descriptor = descriptor
        self._backing: Backing = backing or Passthrough(descriptor)
        self.requests = requests
        self._post = post
        self._ready = ready
        self._pending: dict[int, _Pending] = {}
        self.interrupted: set[int] = set()
        """Requests in hand whose waiters have been sent a signal."""
        self._workers = {wait: Workers(count, f"waiting-{wait.value}") for wait, count in _THREADS.items()}
        self._handlers = handlers(requests)
        self._mountpoint = mountpoint
        self._without = without
        self._agreed = Negotiated(0, 0, 0, 0)
        self._write_back: WriteBack | None = None
        self._against: str | None = "the kernel does not offer it"
        self._in_hand: InHand | None = None
        self.serve_one: Callable[[], bool] = self._serve_one
        """Read and serve one request; False when there is none. Sets `closed` when the mount is gone."""
        self.closed = False
        self.before_close: Callable[[], None] = lambda: None
        """For who watches the descriptor: others may have the same open file, which then goes on to be watched."""
        if take_over:
            self._take_over()

    def _take_over(self) -> None:
        spool = self.requests.filesystem.volume.spool
        agreed = Negotiated.load(spool.session)
        if agreed is None:  # the predecessor was gone before INIT was answered
            self._send(reply.resend())
            return
        if not agreed.flags & InitFlag.HAS_RESEND and left_in_hand(spool.session):
            raise TakeOverRefused(
                "the server of this mount died, and this kernel (before Linux 6.9) cannot ask again for what it had in hand"
            )
        self._agreed = agreed
        self._note_what_is_in_hand()
        if agreed.passthrough is None:  # INIT may not have been answered
            answer = self._init_answer()
            self._send(reply.header(agreed.unique, len(answer)), answer)
        if agreed.passthrough:
            self._pass_through()
        work = TakeOver(self.requests)
        work.restore()
        last = work.last_answer()
        if last is not None:
            self._send(reply.header(last[0], len(last[1])), last[1])
        if agreed.flags & InitFlag.HAS_RESEND:
            self._send(reply.resend())
        log.info("taken over, with %d open files", len(work))
        self._begun()

    def leave(self) -> bool:
        """Let go of the mount for another server, which asks again for what waits here. Nothing is unmounted.

        False where the kernel cannot ask again and something waits: it is served on; to be called again later.
        """
        if self._pending and not self._agreed.flags & InitFlag.HAS_RESEND:
            return False
        self.close()
        return True

    def _serve_one_noted(self) -> bool:
        """`serve_one` where the kernel cannot ask again."""
        assert self._in_hand is not None
        self._in_hand.note(busy=True)
        served = self._serve_one()
        self._in_hand.note(busy=bool(self._pending))
        return served

    def _serve_one(self) -> bool:
        try:
            count = os.readv(self.descriptor, [self.buffer])
        except OSError as error:
            if error.errno in (errno.EINTR, errno.ENOENT):  # ENOENT: its sender gave up
                return True
            if error.errno == errno.EAGAIN:
                return False
            if error.errno not in (errno.ENODEV, errno.ECONNABORTED):
                log.error("the mount is lost: %s", error.strerror)  # noqa: TRY400 - no traceback: nothing here is at fault
            self.close()
            return False
        self.take(self.buffer[:count])
        return True

    def take(self, message: memoryview) -> None:
        """Serve one message."""
        try:
            request = parse(message)
        except Malformed as error:
            log.error("%s", error.strerror)  # noqa: TRY400
            return
        opcode = request.opcode
        if opcode == _INTERRUPT:
            self._interrupt(request)
            return
        handler = self._init if opcode == _INIT else self._handlers.get(opcode)
        if handler is None:
            self._fail(request, errno.ENOSYS)
            return
        serving(request.caller)
        try:
            answer = handler(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop serves on
            self._fail(request, _code(request, error))
            return
        if isinstance(answer, Later):
            self._wait(request, answer)
        elif opcode == _READ:
            assert isinstance(answer, memoryview)
            reply.header_into(answer, request.unique, len(answer) - reply.HEADER_SIZE)
            self._send(answer)
        elif answer is not None:
            self._send(reply.header(request.unique, len(answer)), answer)
        if opcode == _INIT:
            self._begun()

    # -- answers that have to wait ------------------------------------------------------------------------

    def _wait(self, request: Request, later: Later) -> None:
        pending = self._pending[request.unique] = _Pending(request)
        if request.resent:  # the signal may have been told to a server before this one
            self.interrupted.add(request.unique)
        caller = request.caller

        def work() -> None:
            serving(caller)
            outcome, code = None, 0
            try:
                outcome = later.work()
            except Exception as error:  # noqa: BLE001
                code = _code(request, error)
            self._post(lambda: self._finish(pending, later, outcome, code))

        self._workers[later.wait].submit(work)

    def _finish(self, pending: _Pending, later: Later, outcome: Any, code: int) -> None:
        if pending.answered or self.closed:
            if code == 0 and later.undo is not None:
                later.undo(outcome)
            return
        self._answer_late(pending.request, later, outcome, code)
        self._pending.pop(pending.request.unique, None)
        if self._in_hand is not None:
            self._in_hand.note(busy=bool(self._pending))

    def _answer_late(self, request: Request, later: Later, outcome: Any, code: int) -> None:
        serving(request.caller)
        answer: Buffer = b""
        if code == 0:
            try:
                answer = later.finish(outcome)
            except Exception as error:  # noqa: BLE001
                code = _code(request, error)
        if code:
            self._fail(request, code)
        else:
            self._send(reply.header(request.unique, len(answer)), answer)

    def _interrupt(self, request: Request) -> None:
        """INTERRUPT: answer whoever was killed while waiting; other signals do not end a wait, as on a disk."""
        try:
            unique = INTERRUPT_IN.unpack(request.body).unique
        except Malformed as error:
            log.error("%s", error.strerror)  # noqa: TRY400
            return
        if not self._ended(unique):
            self.interrupted.add(unique)

    def look_at_interrupted(self) -> bool:
        """Answer who was killed after another signal, of which alone the kernel tells; whether others wait still."""
        self.interrupted = {unique for unique in self.interrupted if not self._ended(unique)}
        return bool(self.interrupted)

    def _ended(self, unique: int) -> bool:
        """Whether nobody waits for that answer, now that whoever was killed has one."""
        pending = self._pending.get(unique)
        if pending is None:
            return True
        if not is_dying(pending.request.caller.pid):
            return False
        pending.answered = True
        del self._pending[unique]
        self._fail(pending.request, errno.EINTR)
        return True

    # -- the session itself -------------------------------------------------------------------------------

    def _init(self, request: Request) -> bytes:
        asked = INIT_IN.unpack(request.body)
        if asked.major != MAJOR or asked.minor < MINOR_MIN:
            log.error("the kernel speaks FUSE %d.%d; 7.31 or later is needed (Linux 5.4)", asked.major, asked.minor)
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        offered = asked.flags
        if offered & InitFlag.INIT_EXT and len(request.body) >= INIT_IN.size + 4:
            offered |= int.from_bytes(request.body[INIT_IN.size : INIT_IN.size + 4], "little") << 32
        offered &= ~self._without
        taken = int((offered & _WANTED) | self._way(offered))
        begin(self.requests)
        readahead = min(asked.max_readahead, MAX_IO)
        self._agreed = Negotiated(request.unique, min(asked.minor, MINOR_MAX), readahead, taken)
        self._agreed.save(self.requests.filesystem.volume.spool.session)
        self._note_what_is_in_hand()
        return self._init_answer()

    def _init_answer(self) -> bytes:
        agreed = self._agreed
        depth = 1 if agreed.flags & InitFlag.PASSTHROUGH else 0
        return reply.init(agreed.minor, agreed.readahead, agreed.flags, MAX_IO, MAX_IO >> 12, depth)

    def _way(self, offered: int) -> int:
        """The flags by which content is to travel: past the daemon, held back by the kernel, or neither."""
        volume = self.requests.filesystem.volume
        if offered & InitFlag.PASSTHROUGH:
            self._against = passthrough.reason_against(
                self._backing, str(volume.spool.directory / "copies"), volume.settings
            )
            if self._against is None:
                return InitFlag.PASSTHROUGH
        reason = writeback.reason_against(volume, self._mountpoint)
        log.info("writeback cache: %s", "yes" if reason is None else f"no: {reason}")
        return 0 if reason is not None else offered & _HELD_BACK

    def _begun(self) -> None:
        """After INIT, or a take-over: see whether the kernel may read and write the spool itself, if that is open."""
        volume, flags = self.requests.filesystem.volume, self._agreed.flags
        if self._agreed.passthrough is None:
            if flags & InitFlag.PASSTHROUGH:
                self._against = passthrough.refusal(self._backing, str(volume.spool.directory / "copies"))
            self._agreed.passthrough = self._against is None
            self._agreed.save(volume.spool.session)
            log.info("passthrough: %s", "yes" if self._against is None else f"no: {self._against}")
        if self._agreed.passthrough:
            self._pass_through()
        elif self._mountpoint is not None:
            # mappings are held back by the kernel in any case
            find = self.requests.table.path
            volume.write_back = self._write_back = WriteBack(self._mountpoint, find, self._post)
            self.requests.helpers = self._write_back.helpers
        self.requests.held_back = flags & _HELD_BACK if flags & InitFlag.WRITEBACK_CACHE else 0
        self._ready()

    def _note_what_is_in_hand(self) -> None:
        """From now on, where the kernel cannot ask for it again. Raises OSError."""
        if not self._agreed.flags & InitFlag.HAS_RESEND:
            self._in_hand = InHand(self.requests.filesystem.volume.spool.session)
            self.serve_one = self._serve_one_noted

    def _pass_through(self) -> None:
        self.requests.passthrough = self._backing
        self.requests.cut = lambda nodeid: self._send(reply.invalid_attributes(nodeid))

    def _fail(self, request: Request, code: int) -> None:
        if request.opcode not in (Opcode.FORGET, Opcode.BATCH_FORGET):
            self._send(reply.header(request.unique, 0, code))

    def _send(self, *parts: Buffer) -> None:
        try:
            os.writev(self.descriptor, parts)
        except OSError as error:
            # ENOENT: nobody waits for it any more; ENODEV, ECONNABORTED: the mount is gone, which the next read tells
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED):
                log.error("an answer was refused: %s", error.strerror)  # noqa: TRY400

    def close(self) -> None:
        """Let go of the mount, which then answers nothing but ENOTCONN. Idempotent."""
        if not self.closed:
            self.closed = True
            self.before_close()
            os.close(self.descriptor)
            if self._write_back is not None:
                self._write_back.close()
            if self._in_hand is not None:
                self._in_hand.close()
            for workers in self._workers.values():
                workers.close(0)
            self.requests.close()


def _code(request: Request, error: Exception) -> int:
    """The errno that answers for an error; what nobody foresaw is logged."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    if isinstance(error, OverflowError):  # a number that no system call takes
        return errno.EINVAL
    log.error("request %d failed unexpectedly", request.opcode, exc_info=error)
    return errno.EIO
