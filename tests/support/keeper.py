"""A small holder for tests: it keeps a mount's descriptor, and starts servers on it one after the other.

Run as a process of its own, `keeper.py <directory> <flags to decline>`, for whoever starts a server must have nothing
open on the mount. It reads one command a line and answers each with one line: `start`, `kill` (SIGKILL, without another
start), `end` (SIGTERM, likewise), `died` (wait until the server has killed itself), `refuse` (close the descriptor).
Servers are forked off it, their modules loaded, so that many can follow one another.

A server kills itself where a file `die` in the directory says so, `<opcode> <when>`, of a request: `before` it is
carried out, `after` that and before it is answered, or `backed`: when the kernel has just been given a file to pass
through to.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from resultsfs import mountpoint, settings
from resultsfs.backing import Passthrough
from resultsfs.collector import ByExecutable
from resultsfs.errors import ResultsError
from resultsfs.kernel.files import FileRequests
from resultsfs.kernel.layout import Buffer
from resultsfs.kernel.loop import Loop
from resultsfs.kernel.request import caller
from resultsfs.kernel.session import Session
from resultsfs.limits import raise_descriptors
from resultsfs.record import VolumeRecord
from resultsfs.service import Service


class Keeper:
    """One mount and its servers."""

    def __init__(self, directory: Path, without: int) -> None:
        self._directory = directory
        self._without = without
        self._device = mountpoint.attach(str(directory / "mnt"), allow_other=True)
        self._server = 0
        self._started = 0

    def start(self) -> str:
        """Let another server take the mount over; `ready` and its pid, or what it said."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            serve(self._directory, self._device, self._without, take_over=self._started > 0, writing=writing)
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            said = pipe.readline().strip()
        self._server = pid
        self._started += 1
        if said == "ready":
            return f"ready {pid}"
        self.died()
        return said or "nothing: it has ended"

    def end(self, number: int) -> str:
        """End the server by a signal."""
        os.kill(self._server, number)
        return self.died()

    def died(self) -> str:
        """Wait for the server, which ends."""
        pid, self._server = self._server, 0
        return f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"

    def refuse(self) -> str:
        """Close the descriptor, as a holder does when no server can take over: what waits gets ECONNABORTED."""
        os.close(self._device)
        self._device = os.open(os.devnull, os.O_RDWR)
        return "closed"

    def close(self) -> None:
        """End everything."""
        if self._server:
            self.end(signal.SIGKILL)
        os.close(self._device)


def keep(directory: Path, without: int) -> None:
    """Obey commands until standard input ends."""
    keeper = Keeper(directory, without)
    acts = {
        "start": keeper.start,
        "kill": lambda: keeper.end(signal.SIGKILL),
        "end": lambda: keeper.end(signal.SIGTERM),
        "died": keeper.died,
        "refuse": keeper.refuse,
    }
    try:
        print("mounted", flush=True)
        while line := sys.stdin.readline():
            print(acts[line.strip()](), flush=True)
    finally:
        keeper.close()


class Mortal(Session):
    """A session that kills its process at one point of one request."""

    die: Path
    _now = 0

    def take(self, message: memoryview) -> None:
        """Serve one message, or die."""
        self._now = int.from_bytes(message[4:8], sys.byteorder)
        self.perish("before")
        super().take(message)

    def _send(self, *parts: Buffer) -> None:
        self.perish("after")
        super()._send(*parts)

    def perish(self, when: str) -> None:
        """Die here, if that is what is due."""
        if self.die.exists() and self.die.read_text() == f"{self._now} {when}":
            self.die.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class MortalFiles(Passthrough):
    """Files to pass through to, whose process may be killed when it has given the kernel one."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.perish: Callable[[str], None] = lambda when: None

    def open(self, file: int) -> int:
        """Register an open file; its backing id."""
        number = super().open(file)
        self.perish("backed")
        return number


def serve(directory: Path, device: int, without: int, *, take_over: bool, writing: int) -> NoReturn:
    """One server, in a process that was forked for it; what it says goes to the pipe."""
    status = 1
    try:
        with open(directory / "daemon.log", "ab") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())
        form = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
        logging.basicConfig(format=form, level=logging.INFO, force=True)
        os.umask(0)
        raise_descriptors()
        _serve(directory, device, without, take_over=take_over, say=lambda words: _say(writing, words))
        status = 0
    except ResultsError as error:
        _say(writing, f"refused: {error}")
    except BaseException:
        logging.exception("the server has failed")
    os._exit(status)  # what its threads wait for comes again, to the next server


def _say(pipe: int, words: str) -> None:
    os.write(pipe, words.encode() + b"\n")
    os.close(pipe)


def _serve(directory: Path, device: int, without: int, *, take_over: bool, say: Callable[[str], None]) -> None:
    loop, sessions = Loop(), list[Session]()

    def leave() -> None:
        if all(session.leave() for session in sessions):
            loop.stop()

    signal.signal(signal.SIGTERM, lambda number, frame: loop.post(leave))
    Mortal.die = directory / "die"
    record = VolumeRecord.from_json((directory / "record.json").read_text(encoding="utf-8"))
    identify = ByExecutable(str(directory / "tekton/cat"), str(directory / "tekton/python"))
    service = Service(record, directory / "spool", settings.load(directory / "settings.yaml"), identify, caller)
    files = MortalFiles(device)
    session = Mortal(
        device,
        FileRequests(service.filesystem, identify, record.results),
        loop.post,
        lambda: say("ready"),
        backing=files,
        mountpoint=str(directory / "mnt"),
        take_over=take_over,
        without=without,
    )
    files.perish = session.perish
    sessions.append(session)
    loop.add(session)
    loop.run()


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]))
