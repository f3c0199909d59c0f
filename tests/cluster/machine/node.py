"""The node, from the host: namespaces with a supervisor as their first process."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.machine import cgroups, records
from tests.cluster.machine.errors import ClusterError
from tests.cluster.machine.places import CHECKOUT, Places
from tests.cluster.machine.running import Argument, run
from tests.cluster.machine.waiting import until

_SUPERVISOR = "tests.cluster.machine.supervisor"
_START_SECONDS = 180.0
_ANSWER_SECONDS = 120.0
_LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path (unix(7))."""


class Node:
    """The node of one cluster, running or not."""

    def __init__(self, places: Places) -> None:
        self._places = places

    @property
    def pid(self) -> int | None:
        """The node's first process, as the host numbers it; None when the node does not run."""
        record = records.read(self._places.node_record, "pid", "started", "boot")
        if record is None:
            return None
        pid: int = record["pid"]
        return pid if started(pid) == record["started"] and boot() == record["boot"] else None

    @property
    def root(self) -> Path:
        """The node's file system, with its mounts, as the host sees it. Raises ClusterError when it does not run."""
        return Path(f"/proc/{self._running()}/root")

    def start(self, binds: Sequence[tuple[Path, str]]) -> int:
        """Make the namespaces; `binds` are directories of the host and their places in the node.

        Returns the first process. Raises ClusterError with the end of the node's log.
        """
        if len(os.fsencode(self._places.socket)) > _LONGEST_SOCKET:
            raise ClusterError(f"{self._places.socket} is too long for a socket: set XDG_STATE_HOME to a shorter path")
        cgroups.make(self._places.name)
        self._places.logs.mkdir(parents=True, exist_ok=True)
        plan = self._places.home / "plan.json"
        plan.write_text(
            json.dumps(
                {
                    "name": self._places.name,
                    "home": str(self._places.home),
                    "socket": str(self._places.socket),
                    "binds": [(str(source), place) for source, place in binds],
                }
            )
        )
        log = self._places.logs / "node.log"
        command = [
            "setsid", "--fork", "unshare", "--mount", "--propagation", "slave", "--net", "--pid", "--fork",
            "--kill-child", "--mount-proc", "--", sys.executable, "-P", "-m", _SUPERVISOR, str(plan),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        with log.open("ab") as output:
            subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True, env=environment, cwd="/"
            )
        try:
            until(self._answers, _START_SECONDS, "the node's supervisor answers")
        except ClusterError as error:
            raise ClusterError(f"{error}; {log} ends:\n{tail(log)}") from error
        pid = self._listener()
        records.write(self._places.node_record, {"pid": pid, "started": started(pid), "boot": boot()})
        return pid

    def services(self) -> dict[str, dict[str, Any]]:
        """The components as started last: the fields of `supervisor.Service`. Raises ClusterError."""
        return self._ask({"do": "state"})

    def launch(self, name: str, argv: Sequence[Argument], environment: Mapping[str, str]) -> None:
        """Start a component, with its log below `logs`. Raises ClusterError."""
        log = str(self._places.logs / f"{name}.log")
        self._ask(
            {"do": "start", "name": name, "argv": [*map(str, argv)], "environment": dict(environment), "log": log}
        )

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a component. Raises ClusterError."""
        self._ask({"do": "signal", "name": name, "signal": number})

    def ended(self, name: str) -> bool:
        """Whether a component does not run. Raises ClusterError."""
        service = self.services().get(name)
        return service is None or service["ended"] is not None

    def enter(self) -> list[str]:
        """The beginning of a command that runs in the node. Raises ClusterError when it does not run."""
        return ["nsenter", "--target", str(self._running()), "--mount", "--net", "--pid", "--"]

    def run(self, command: Sequence[Argument], *, deadline: float = 120.0) -> str:
        """What a command printed that ran in the node. Raises ClusterError."""
        return run([*self.enter(), *command], deadline=deadline)

    def _running(self) -> int:
        pid = self.pid
        if pid is None:
            raise ClusterError("the node does not run: run `make cluster-up`")
        return pid

    def _answers(self) -> bool:
        try:
            self.services()
        except ClusterError:
            return False
        return True

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(self._places.socket))
        except OSError as error:
            connection.close()
            raise self._silent(error) from error
        return connection

    def _silent(self, error: Exception) -> ClusterError:
        return ClusterError(f"the node does not answer at {self._places.socket} ({error}): run `make cluster-up`")

    def _listener(self) -> int:
        with self._connect() as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", credentials)[0]
        return pid

    def _ask(self, request: dict[str, Any]) -> dict[str, dict[str, Any]]:
        with self._connect() as connection:
            try:
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as stream:
                    answer = json.loads(stream.readline())
            except (OSError, ValueError) as error:  # it ended meanwhile: no answer, or a part of one
                raise self._silent(error) from error
        if "error" in answer:
            raise ClusterError(f"the node refused {request['do']} {request.get('name', '')}: {answer['error']}")
        services: dict[str, dict[str, Any]] = answer["services"]
        return services


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def boot() -> str:
    """Which start of the machine this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"
