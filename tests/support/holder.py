"""A holder and servers as processes, and what a client says to the holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from resultsfs import mountinfo
from resultsfs.errors import HolderGone
from resultsfs.holder.channel import connect
from resultsfs.holder.messages import (
    End,
    Failed,
    List,
    Listed,
    Message,
    Mount,
    Mounted,
    Unmount,
    Unmounted,
    Volume,
)
from resultsfs.namespaces import ended
from tests.support.mount import record
from tests.support.waiting import eventually

M = TypeVar("M", bound=Message)
DEADLINE = 100.0


class Process:
    """A process of the stage, with a log of its own."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **(environment or {})}
            )
        self.pid = self._process.pid

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the exit code as subprocess has it."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        return self._process.wait(DEADLINE)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has said something."""
        try:
            eventually(lambda: text in self.log() or not self.running, DEADLINE)
        finally:
            assert text in self.log(), self.log()


class Stage:
    """Where holders and servers run: `socket` is the holder's, `store` holds what is spilled.

    `environment` is what servers have more than the tests.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment: dict[str, str] = {}
        self.socket = str(directory / "holder.sock")
        self.settings = directory / "settings.yaml"
        self.settings.write_text(yaml.safe_dump({"store": f"file://{directory}/store"}), encoding="utf-8")
        self.processes: list[Process] = []

    def _start(self, *command: str) -> Process:
        process = Process(command, self.directory / f"{len(self.processes)}.log", self.environment)
        self.processes.append(process)
        return process

    def holder(self, *options: str, ready: str = "listens at") -> Process:
        """Start a holder and wait until it listens."""
        holder = self._start(sys.executable, "-m", "resultsfs.holder", "--socket", self.socket, *options)
        holder.says(ready)
        return holder

    def server(self, *before: str, ready: str = "attached to the holder") -> Process:
        """Start a server, by the command `before` it, and wait until it is attached."""
        server = self.starting(*before)
        server.says(ready)
        return server

    def starting(self, *before: str) -> Process:
        """Start a server, and do not wait."""
        command = [*before, sys.executable, "-m", "resultsfs.server", "--holder", self.socket]
        return self._start(*command, "--settings", str(self.settings))

    # -- a client ---------------------------------------------------------------------------------------------

    def volume(
        self, name: str = "v", *, settings: str = "", collectors: tuple[str, ...] = (), **fields: object
    ) -> Volume:
        """A volume with a mount point of its own; `fields` are its record's."""
        point = self.directory / name
        with suppress(FileExistsError):  # it is not looked at: it may be a dead mount
            point.mkdir()
        spool = str(self.directory / f"{name}.spool")
        return Volume(name, str(point), spool, record(volume_id=name, **fields).to_json(), settings, collectors)

    def ask(self, question: Message, wanted: type[M]) -> M:
        """Ask the holder; fails on another answer than the wanted one."""
        channel = connect(self.socket, DEADLINE)
        try:
            channel.send(question)
            answer, descriptor = channel.receive()
        finally:
            channel.close()
        assert descriptor is None
        assert isinstance(answer, wanted), answer
        return answer

    def mount(self, name: str = "v", **more: object) -> Path:
        """Mount a volume; its mount point, which answers."""
        volume = self.volume(name, **more)  # type: ignore[arg-type]
        self.ask(Mount(volume), Mounted)
        return Path(volume.mountpoint)

    def unmount(self, name: str = "v") -> int:
        """Unmount a volume; how many mounts were taken off."""
        return self.ask(Unmount(volume_id=name), Unmounted).count

    def listed(self) -> dict[str, Listed]:
        """The volumes that the holder has."""
        channel = connect(self.socket, DEADLINE)
        found = []
        try:
            channel.send(List())
            while not isinstance(message := channel.receive()[0], End):
                assert isinstance(message, Listed), message
                found.append(message)
        finally:
            channel.close()
        assert message.count == len(found)
        return {one.volume_id: one for one in found}

    def states(self) -> dict[str, str]:
        """By volume, its state."""
        return {name: found.state for name, found in self.listed().items()}

    def fails(self, question: Message) -> Failed:
        """Ask what must fail."""
        return self.ask(question, Failed)

    def mounted(self) -> list[str]:
        """What of ours is mounted on this stage, by name."""
        prefix = f"{self.directory}/"
        return [
            mount.mountpoint.removeprefix(prefix) for mount in mountinfo.mounts() if mount.mountpoint.startswith(prefix)
        ]

    def end(self) -> None:
        """End all processes and take off all mounts."""
        for process in self.processes:
            process.kill()
        for name in self.mounted():
            subprocess.run(["umount", "-l", self.directory / name], check=True)


@contextmanager
def stage() -> Iterator[Stage]:
    """A fresh stage; nothing of it is left afterwards, and nothing unforeseen was logged."""
    if not os.path.exists("/dev/fuse"):
        pytest.fail("no /dev/fuse on this machine: modprobe fuse, or give the container the device")
    with tempfile.TemporaryDirectory(prefix="resultsfs-test-") as name, ExitStack() as ends:
        directory = Path(name)
        directory.chmod(0o711)
        made = Stage(directory)
        ends.callback(made.end)
        yield made
        logs = "\n".join(process.log() for process in made.processes)
        assert "Traceback" not in logs and "failed unexpectedly" not in logs, logs


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return ended(pidfd)
    finally:
        os.close(pidfd)


def nobody_listens(path: str) -> bool:
    """Whether there is no holder at a socket."""
    try:
        connect(path, DEADLINE).close()
    except HolderGone:
        return True
    return False
