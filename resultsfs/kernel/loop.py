"""The event loop: one thread that serves several mounts, fairly."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from resultsfs.kernel.files import MAX_IO
from resultsfs.kernel.reply import HEADER_SIZE
from resultsfs.kernel.session import Session

_LOOK = 0.2  # seconds between looks at the sizes of files that are written past the daemon
_TURN = 16
"""Requests that one mount is served before the next has its turn."""


class Loop:
    """Serves sessions until it is stopped, or, unless it is `endless`, none is left. `post` is for any thread.

    `gone` is called with a session whose mount has ended.
    """

    def __init__(self, *, endless: bool = False, gone: Callable[[Session], None] = lambda session: None) -> None:
        self._endless = endless
        self._gone = gone
        self._watched: dict[int, Callable[[], None]] = {}
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._posted: deque[Callable[[], None]] = deque()
        self._sessions: dict[int, Session] = {}
        self._lock = threading.Lock()
        self._stopped = self._ended = False
        # one of each for all sessions, for each request is done with before the next is read
        self._received = memoryview(bytearray(MAX_IO + (1 << 16)))
        self._readable = memoryview(bytearray(HEADER_SIZE + MAX_IO))
        self._next_look = 0.0
        self._pause: float | None = None
        self._epoll.register(self._wake, select.EPOLLIN)

    def post(self, function: Callable[[], None]) -> None:
        """Run a function on the loop's thread, soon."""
        with self._lock:
            if not self._ended:  # else nobody would run it, and the descriptor may be another's by now
                self._posted.append(function)
                os.eventfd_write(self._wake, 1)

    def add(self, session: Session) -> None:
        """Serve one more mount."""
        session.buffer, session.requests.readable = self._received, self._readable
        self._sessions[session.descriptor] = session
        self._epoll.register(session.descriptor, select.EPOLLIN)
        session.before_close = partial(self._epoll.unregister, session.descriptor)

    def remove(self, session: Session) -> None:
        """Let go of a mount. Idempotent."""
        if self._sessions.pop(session.descriptor, None) is not None:
            session.close()

    def leave(self, session: Session) -> bool:
        """Let go of a mount for another server; False when that must wait (see `Session.leave`)."""
        if not session.leave():
            return False
        self._sessions.pop(session.descriptor, None)
        return True

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back when a descriptor that is no session's can be read. On the loop's thread."""
        self._watched[descriptor] = callback
        self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Stop that, before it is closed. Idempotent."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def stop(self) -> None:
        """End `run`, soon. On the loop's thread (see `post`), or by a signal's handler."""
        self._stopped = True
        if not self._ended:
            os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Serve until stopped, or until no mount is left."""
        try:
            while (self._sessions or self._endless) and not self._stopped:
                for descriptor, _ in self._epoll.poll(self._pause):
                    if descriptor == self._wake:
                        os.eventfd_read(self._wake)
                        self._run_posted()
                    elif descriptor in self._watched:
                        self._watched[descriptor]()
                    elif descriptor in self._sessions:
                        self._turn(self._sessions[descriptor])
                self._look_after()
        finally:
            for session in list(self._sessions.values()):
                self.remove(session)
            with self._lock:
                self._ended = True
                self._posted.clear()
                self._epoll.close()
                os.close(self._wake)

    def _look_after(self) -> None:
        """See to what is written past the daemon, and who was killed while waiting, now and then while there is any."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK
        sessions = self._sessions.values()
        again = [session.requests.check_sizes() for session in sessions]
        again += [session.look_at_interrupted() for session in sessions]
        self._pause = _LOOK if any(again) else None

    def _run_posted(self) -> None:
        for _ in range(len(self._posted)):
            self._posted.popleft()()

    def _turn(self, session: Session) -> None:
        """Serve what waits, up to a turn. Where one request came at a time lately, no second one is looked for."""
        if session.alone:
            session.alone -= 1
            session.serve_one()
        else:
            served = 0
            while served < _TURN and session.serve_one():
                served += 1
            session.alone = _TURN if served == 1 else 0
        if session.requests.unseen or session.interrupted:
            self._pause = _LOOK
        if session.closed:
            del self._sessions[session.descriptor]
            self._gone(session)
