"""A holder and servers that end hundreds of times at random moments, under clients of every kind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import yaml

from resultsfs.holder.messages import Listed
from tests.support.backing import let_go
from tests.support.holder import Process, Stage, stage
from tests.support.takeover import WAYS, handles
from tests.support.waiting import eventually

ENDS = 200
PATIENCE = 120.0
"""Seconds within which every client ends once it is told to."""
CLIENTS = Path(__file__).with_name("clients.py")
KINDS = ("buffered", "appending", "direct", "mapped", "replacing", "making", "listing", "sharing", "collecting")
RESULTS = tuple(f"result-{number}" for number in range(8))
WAITING = 2
"""Servers that wait for their turn."""


class Load:
    """Clients of a mount, each a process of its own that checks what it does until the file `stop` is there.

    They give way to servers that start, for these are many. `cat` is the collectors' program.
    """

    def __init__(self, point: Path, outside: Path, cat: Path, stack: ExitStack) -> None:
        self._stop = outside / "stop"
        self._said = outside
        self._clients: dict[str, subprocess.Popen[bytes]] = {}
        for kind in KINDS:
            words = ["nice", "-n", "5", sys.executable, "-I", str(CLIENTS), kind]
            words += [str(point), str(self._stop), str(cat)]
            with open(self._said / f"{kind}.out", "wb") as out, open(self._said / f"{kind}.err", "wb") as err:
                process = subprocess.Popen(words, stdout=out, stderr=err, start_new_session=True)
            self._clients[kind] = process
            stack.callback(self._end, process)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def check(self, when: str) -> None:
        """Raises AssertionError if a client has ended, which it must not while it is not told to, with what it said."""
        ended = [kind for kind, process in self._clients.items() if process.poll() is not None]
        if ended:
            pytest.fail(f"{ended} have ended {when}\n" + "\n".join(self._words(kind, "err") for kind in ended))

    def _words(self, kind: str, what: str) -> str:
        return (self._said / f"{kind}.{what}").read_text()

    def finish(self) -> dict[str, int]:
        """Tell them to end; how many operations each did. Raises AssertionError for a hang, an error, a wrong byte."""
        self._stop.touch()
        counts = {}
        for kind, process in self._clients.items():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                stack = Path(f"/proc/{process.pid}/stack").read_text()
                raise AssertionError(f"{kind} hangs:\n{stack}") from None
            assert (process.returncode, self._words(kind, "err")) == (0, ""), kind
            counts[kind] = int(self._words(kind, "out"))
        return counts


class Servers:
    """The one that serves, and others that wait for their turn, so that clients do not wait for one to start."""

    def __init__(self, made: Stage) -> None:
        self._stage = made
        self._servers: dict[int, Process] = {}
        self.latest = self.start()

    def start(self) -> Process:
        """Start one more."""
        server = self._stage.starting()
        self._servers[server.pid] = server
        return server

    def end(self, number: int, *, early: bool) -> None:
        """End the one that serves, or (`early`) that is about to take the volume over, and start one more."""
        found: list[Listed] = []

        def serves() -> bool:
            found[:] = [self._stage.listed()["v"]]
            return found[0].server != 0 and (early or found[0].state == "served")

        eventually(serves, PATIENCE)
        self.latest = self._servers.pop(found[0].server)
        assert self.latest.kill(number) == (0 if number == signal.SIGTERM else -number), self.latest.log()
        self.start()


def end_under_load(way: str, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """End 200 servers by a signal, of a volume whose content travels that `way`.

    Raises AssertionError when a client has met an error, a hang or a wrong byte, or something is left of any server.
    """
    chance = random.Random(os.environ.get("RESULTSFS_TEST_SEED", f"{way}{number}"))
    with stage() as made, ExitStack() as stack:
        made.environment |= WAYS[way]
        made.settings.write_text(yaml.safe_dump({"store": f"file://{made.directory}/store", "spill-delay": "0.05s"}))
        outside, cat = made.directory / "outside", made.directory / "cat"
        outside.mkdir()
        shutil.copy(shutil.which("cat") or "/bin/cat", cat)
        holder, servers = made.holder(), Servers(made)
        point, spool = made.mount(collectors=(str(cat),), results=RESULTS), made.directory / "v.spool"
        if ("passthrough: yes" in servers.latest.log()) != (way == "passthrough"):
            pytest.skip("no passthrough here: " + servers.latest.log())
        for _ in range(WAITING):
            servers.start()
        load, begun = Load(point, outside, cat, stack), time.monotonic()
        for count in range(1, ENDS + 1):
            time.sleep(chance.expovariate(20))
            servers.end(number, early=chance.random() < 0.3)
            load.check(f"after {count} ends\n{servers.latest.log()[-3000:]}")
        took, counts = time.monotonic() - begun, load.finish()
        eventually(lambda: handles(spool) == 0)
        os.statvfs(point)  # the server is done with the last release
        assert os.listdir(spool / "hidden") == []
        assert way != "passthrough" or let_go(holder.pid) == 0
        assert made.unmount() == 1
        with capsys.disabled():
            print(f"\n{way}: {ENDS} servers ended by signal {number} in {took:.0f} s, operations: {counts}")
        assert min(counts.values()) > 0
