"""Keeps a server running: starts it, and starts another at once when it dies."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable

from resultsfs.holder.loop import Loop

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LAST_PAUSE = 0.1, 10.0  # seconds until one that keeps dying is started again
_SETTLED = 10.0  # seconds of serving after which a server counts as one that works


class Supervisor:
    """One server process by its command. `died` is asked, with its exit code, whether to start another."""

    def __init__(self, loop: Loop, command: list[str], died: Callable[[int], bool]) -> None:
        self._loop = loop
        self._command = command
        self._died = died
        self._pid = 0
        self._pidfd = -1
        self._started = 0.0
        self._served: float | None = None
        self._pause = 0.0
        self._ending = False
        self.ended: Callable[[], None] = lambda: None
        """Called when the server is gone for good."""

    def start(self) -> None:
        """Start the server; it inherits what is inheritable. Raises OSError."""
        if self._ending:
            return
        self._started, self._served = time.monotonic(), None
        self._pid = os.posix_spawn(self._command[0], self._command, os.environ)
        self._pidfd = os.pidfd_open(self._pid)
        self._loop.watch(self._pidfd, select.EPOLLIN, lambda _: self._gone())

    def serves(self) -> None:
        """The server has become ready: from now on it counts how long it lives. Idempotent."""
        if self._served is None:
            self._served = time.monotonic()

    def _gone(self) -> None:
        self._loop.unwatch(self._pidfd)
        os.close(self._pidfd)
        pid, self._pid, self._pidfd = self._pid, 0, -1
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if self._ending:
            self.ended()
            return
        if not self._died(code):
            return
        now = time.monotonic()
        lived = now - self._started
        settled = self._served is not None and now - self._served >= _SETTLED
        self._pause = 0.0 if settled else min(max(self._pause * 2, _FIRST_PAUSE), _LAST_PAUSE)
        when = "at once" if self._pause <= _FIRST_PAUSE else f"in {self._pause:g} s, for this keeps happening"
        log.warning("the server (pid %d) ended with %d after %.1f s; another starts %s", pid, code, lived, when)
        self._loop.after(0.0 if self._pause <= _FIRST_PAUSE else self._pause, self.start)

    def end(self, patience: float) -> None:
        """End the server: SIGTERM, and SIGKILL after `patience` seconds; `ended` is called afterwards."""
        if self._ending:
            return
        self._ending = True
        if not self._pid:
            self.ended()
            return
        signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
        self._loop.after(patience, self._kill)

    def _kill(self) -> None:
        if self._pid:
            log.error("the server (pid %d) does not end and is killed", self._pid)
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
