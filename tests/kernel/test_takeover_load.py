"""Servers killed hundreds of times at random moments under load: no client sees an error, a hang or a wrong byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.takeover import WAYS, TakenOver, taken_over
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.mount,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root"),
]
KILLS = 200
PATIENCE = 120.0
"""Seconds within which every client ends once it is told to."""
CLIENTS = Path(__file__).parents[1] / "support" / "clients.py"
KINDS = ("buffered", "appending", "direct", "mapped", "replacing", "making", "listing", "sharing", "collecting")
RESULTS = tuple(f"result-{number}" for number in range(8))


class Load:
    """Clients of a mount, each a process of its own that checks what it does until the file `stop` is there."""

    def __init__(self, mount: TakenOver, stack: ExitStack) -> None:
        self._stop = mount.outside / "stop"
        self._said = mount.outside
        self._clients: dict[str, subprocess.Popen[bytes]] = {}
        for kind in KINDS:
            words = [sys.executable, "-I", str(CLIENTS), kind, str(mount.path), str(self._stop), str(mount.cat)]
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


@pytest.mark.parametrize("planned", [False, True], ids=["killed", "replaced"])
@pytest.mark.parametrize("way", list(WAYS))
def test_killed_under_load(way: str, planned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """200 servers end at random moments while files are written in every manner, made, renamed, removed, listed,
    collected and read by reference: zero errors, zero hung processes, zero wrong bytes."""
    chance = random.Random(os.environ.get("RESULTSFS_TEST_SEED", f"{way}{planned}"))
    with taken_over(way=way, results=RESULTS, settings={"spill-delay": "0.05s"}) as mount, ExitStack() as stack:
        load = Load(mount, stack)
        begun = time.monotonic()
        for number in range(KILLS):
            time.sleep(chance.expovariate(20))
            mount.succeed(planned=planned)
            load.check(f"after {number + 1} ends\n{mount.log()[-3000:]}")
        counts = load.finish()
        eventually(lambda: mount.handles() == 0)
        assert os.listdir(mount.spool / "hidden") == []
        with capsys.disabled():
            took = time.monotonic() - begun
            print(
                f"\n{way}: {KILLS} servers {'replaced' if planned else 'killed'} in {took:.0f} s, operations: {counts}"
            )
        assert min(counts.values()) > 0
