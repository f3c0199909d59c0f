"""The daemon that serves a pod's /tekton/results, as a child of the pod process in its mount namespace.

With the native transport it is a holder that keeps a server running, else one process.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

from resultsfs import namespaces
from resultsfs.errors import MountError
from resultsfs.local.podspec import PodDirectory
from resultsfs.transport import NATIVE, chosen

START_TIMEOUT = 60.0
"""Seconds until a mount must answer."""
STOP_TIMEOUT = 30.0
"""Seconds that the daemon gets to unmount before it is killed."""


class Daemon:
    """What serves one pod. Its stderr goes to the pod's daemon log.

    `alive` is a descriptor that becomes readable when all of its processes have ended.
    """

    def __init__(self, pod: PodDirectory, transport: str) -> None:
        self._pod = pod
        parent = os.getpid()
        self._ready, ready = os.pipe()
        native = chosen(transport) == NATIVE
        arguments = {
            "--record": str(pod.record),
            "--spool": str(pod.spool),
            "--mountpoint": str(pod.results),
            "--settings": str(pod.settings),
            "--ready-fd": str(ready),
            "--collector-parent": str(parent),
            **({"--while-pid": str(parent)} if native else {"--transport": transport}),
        }
        command = [sys.executable, "-P", "-m", "resultsfs.holder.single" if native else "resultsfs.kernel.serve"]
        self.alive, alive = os.pipe()
        with open(pod.daemon_log, "wb") as log:
            self._process = subprocess.Popen(
                [*command, *(word for pair in arguments.items() for word in pair)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready, alive),
                preexec_fn=lambda: namespaces.die_with_parent(lambda: os.getppid() != parent),
            )
        os.close(ready)
        os.close(alive)
        self.pidfd = os.pidfd_open(self._process.pid)

    def wait_ready(self, deadline: float | None, stop: int) -> None:
        """Wait until the mount answers. Raises MountError with the daemon's words when it ends instead.

        Returns early when `deadline`, on the monotonic clock, has passed or the descriptor `stop` is readable.
        """
        limit = time.monotonic() + START_TIMEOUT
        if deadline is not None:
            limit = min(limit, deadline)
        poll = select.poll()
        poll.register(self._ready, select.POLLIN)
        poll.register(stop, select.POLLIN)
        events = dict(poll.poll(max(0.0, limit - time.monotonic()) * 1000))
        said = os.read(self._ready, 16) if self._ready in events else b""
        os.close(self._ready)
        if said == b"ready\n":
            return
        if stop in events or (deadline is not None and time.monotonic() >= deadline):
            return
        if not events:
            raise MountError(f"/tekton/results did not answer within {START_TIMEOUT:.0f} s{self._log()}")
        self._process.wait(STOP_TIMEOUT)
        raise MountError(f"/tekton/results cannot be mounted{self._log()}")

    def stop(self) -> str | None:
        """Unmount and end the daemon; None, or a sentence if it had failed before or would not end."""
        try:
            if namespaces.ended(self.pidfd):
                code = self._process.wait()
                return f"the daemon of /tekton/results ended with {code} before the TaskRun did{self._log()}"
            self._process.send_signal(signal.SIGTERM)
            try:
                code = self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                return (
                    f"the daemon of /tekton/results did not end within {STOP_TIMEOUT:.0f} s and was killed{self._log()}"
                )
            return f"the daemon of /tekton/results ended with {code}{self._log()}" if code else None
        finally:
            os.close(self.pidfd)
            os.close(self.alive)

    def _log(self) -> str:
        text = self._pod.daemon_log.read_text(encoding="utf-8", errors="replace").strip()
        return f": {text[-4000:]}" if text else ""
