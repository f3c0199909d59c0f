"""The first process of the node's process namespace: starts components when asked, reaps, and says what runs.

When it ends, the kernel ends everything in the node, and the node's mounts and network go with it. It is asked by
lines of JSON on a Unix socket, one request and one answer a connection.

    python -m tests.cluster.machine.supervisor PLAN
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.cluster.machine import cgroups, inside

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_REQUEST_SECONDS = 30.0
"""A client that sends nothing for so long is left."""
_LONGEST_REQUEST = 1 << 20


@dataclass
class Service:
    """A component as it was started last."""

    argv: list[str]
    log: str
    pid: int
    """In the node's process namespace."""
    started: float
    """Seconds since the epoch."""
    ended: float | None = None
    code: int | None = None
    """Its exit code, or the negative number of the signal that ended it."""


class Supervisor:
    """Components by name, and the socket that commands come from."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._services: dict[str, Service] = {}

    def serve(self) -> None:
        """Answer and reap until the process is told to end."""
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._listener:
                        self._answer()
                    else:
                        os.read(woken, 4096)
                self._reap()

    def _answer(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as requests:
            connection.settimeout(_REQUEST_SECONDS)
            # a client that goes away or talks nonsense must not end the node
            try:
                answer = self._do(json.loads(requests.readline(_LONGEST_REQUEST)))
            except (OSError, ValueError, KeyError, TypeError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        self._reap()
        match request["do"]:
            case "start":
                self._start(request["name"], request["argv"], request["environment"], request["log"])
            case "signal":
                service = self._services[request["name"]]
                if service.ended is None:
                    os.kill(service.pid, request["signal"])
            case "state":
                pass
            case other:
                raise ValueError(f"unknown request {other!r}")
        return {"services": {name: asdict(service) for name, service in self._services.items()}}

    def _start(self, name: str, argv: list[str], environment: dict[str, str], log: str) -> None:
        known = self._services.get(name)
        if known is not None and known.ended is None:
            raise ValueError(f"{name} runs already")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        pid = os.posix_spawn(
            argv[0], argv, environment, file_actions=actions, setsid=True, setsigdef=_IGNORED_BY_PYTHON
        )
        self._services[name] = Service(argv=argv, log=log, pid=pid, started=time.time())

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for service in self._services.values():
                if service.pid == pid and service.ended is None:
                    service.ended, service.code = time.time(), os.waitstatus_to_exitcode(status)


def main() -> None:
    """The node, from the plan whose path is the first argument."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    cgroups.join(plan["name"])
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    inside.arrange(Path(plan["home"]), [(source, place) for source, place in plan["binds"]])
    inside.settings()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(plan["socket"])
        os.chmod(plan["socket"], 0o600)
        listener.listen()
        Supervisor(listener).serve()


if __name__ == "__main__":
    main()
