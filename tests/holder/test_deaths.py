"""Which process may die, and what of it clients notice: of a server or a holder nothing, of both an error and no hang."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resultsfs.holder.channel import connect
from resultsfs.holder.messages import HandOver, Mount, Mounted, Unmount, Unmounted
from tests.support.backing import let_go
from tests.support.holder import DEADLINE, Process, Stage, nobody_listens
from tests.support.takeover import handles
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]

# writes and reads one open file and others, on and on, until stdin ends; prints the digest of what it wrote
WORK = """
import hashlib, os, select, sys
point, turn, digest = sys.argv[1], 0, hashlib.sha256()
with open(f"{point}/open", "w+b", buffering=0) as file:
    print("begun", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        block = os.urandom(5000)
        digest.update(block)
        assert file.write(block) == len(block)
        assert os.pread(file.fileno(), 5000, turn * 5000) == block
        with open(f"{point}/made", "wb") as made:
            made.write(block)
        os.rename(f"{point}/made", f"{point}/renamed")
        with open(f"{point}/renamed", "rb") as again:
            assert again.read() == block
        os.unlink(f"{point}/renamed")
        turn += 1
        print(turn, flush=True)
print(digest.hexdigest(), flush=True)
"""


class Worker:
    """A client at work on a mount."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.turns = 0

    def goes_on(self) -> None:
        """Wait until it has done some more turns; fails when it met an error."""
        assert self._process.stdout is not None
        for _ in range(3):
            line = self._process.stdout.readline()
            assert line, "the client met an error"
            self.turns += 1

    def finish(self) -> str:
        """Have it end; the digest of what it wrote to its open file."""
        out, _ = self._process.communicate("", timeout=DEADLINE)
        assert self._process.returncode == 0
        return out.split()[-1]


@contextmanager
def working(point: Path) -> Iterator[Worker]:
    """A client at work, gone afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", WORK, str(point)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            worker = Worker(process)
            worker.goes_on()
            yield worker
        finally:
            process.kill()


def proven(stage: Stage, point: Path, worker: Worker) -> None:
    """The client ends without an error, and its file is what it wrote."""
    digest = worker.finish()
    assert hashlib.sha256((point / "open").read_bytes()).hexdigest() == digest
    assert hashlib.sha256((stage.directory / "v.spool" / "files" / "open").read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_is_replaced(both: Stage, number: int) -> None:
    """A client in the middle of its work notices nothing of servers that are killed or told to end."""
    server, point = both.processes[1], both.mount()
    with working(point) as worker:
        for _ in range(3):
            server.kill(number)
            assert both.states()["v"] == "waiting"
            assert both.mounted() == ["v"]
            server = both.server(ready="takes over volume v")
            worker.goes_on()
        proven(both, point, worker)
    assert both.unmount() == 1


def test_a_server_that_is_told_to_end_unmounts_nothing(both: Stage) -> None:
    """SIGTERM ends it, with 0; what clients ask meanwhile waits for the next server."""
    point = both.mount()
    (point / "report").write_text("before")
    assert both.processes[1].kill(signal.SIGTERM) == 0
    with subprocess.Popen(["cat", point / "report"], stdout=subprocess.PIPE) as reader:
        try:
            both.server()
            out, _ = reader.communicate(timeout=DEADLINE)
            assert out == b"before"
        finally:
            reader.kill()


def test_a_second_server_waits_for_its_turn(both: Stage) -> None:
    """Of two servers the first serves all; when it is killed, the other takes over at once, and what comes then."""
    first, point = both.processes[1], both.mount()
    second = both.server()
    both.mount("w")
    assert {one.server for one in both.listed().values()} == {first.pid}
    with working(point) as worker:
        first.kill()
        worker.goes_on()
        eventually(lambda: {one.server for one in both.listed().values()} == {second.pid})
        both.mount("x")
        assert both.listed()["x"].server == second.pid
        proven(both, point, worker)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_holder_is_replaced(both: Stage, number: int) -> None:
    """Without a holder the server serves on; the next one gets the descriptors back, and all is as before."""
    holder, server = both.processes
    point = both.mount()
    with working(point) as worker:
        for _ in range(2):
            holder.kill(number)
            worker.goes_on()
            holder = both.holder()
            eventually(lambda: both.states() == {"v": "served"})
            assert both.listed()["v"].server == server.pid
            worker.goes_on()
        both.mount("w")
        server.kill()  # the descriptors that the new holder was given are good
        both.server(ready="takes over volume v")
        worker.goes_on()
        proven(both, point, worker)
    assert both.unmount() == 1 and both.unmount("w") == 1
    assert both.mounted() == []


def test_a_volume_becomes_ready_while_there_is_no_holder(stage: Stage) -> None:
    """A server that was just handed a volume when the holder died gives it back as ready."""
    holder = stage.holder()
    server = stage.server()
    server.signal(signal.SIGSTOP)
    client = connect(stage.socket, DEADLINE)
    client.send(Mount(stage.volume()))
    eventually(lambda: stage.listed().get("v") is not None and stage.listed()["v"].server == server.pid)
    holder.kill()
    client.close()
    server.signal(signal.SIGCONT)
    server.says("serves volume v")
    stage.holder()
    eventually(lambda: stage.states() == {"v": "served"})
    stage.ask(Mount(stage.volume()), Mounted)


def test_both_are_killed(both: Stage) -> None:
    """Clients get ENOTCONN and do not hang, also one that waited already; the next holder can take the mount off."""
    holder, server = both.processes
    point = both.mount()
    (point / "report").write_text("kept")
    server.signal(signal.SIGSTOP)
    script = "import os, sys\ntry: os.stat(sys.argv[1])\nexcept OSError as error: sys.exit(error.errno)"
    with subprocess.Popen([sys.executable, "-c", script, point / "waits"]) as waiting:
        try:
            holder.kill()
            server.kill()
            assert waiting.wait(DEADLINE) in (errno.ENOTCONN, errno.ECONNABORTED)
        finally:
            waiting.kill()
    found = subprocess.run([sys.executable, "-c", script, point / "report"], timeout=DEADLINE, check=False)
    assert found.returncode == errno.ENOTCONN
    both.holder()
    assert both.states() == {"v": "lost"}
    assert "is lost: unmount it first" in both.fails(Mount(both.volume())).error
    assert both.unmount() == 1
    assert both.mounted() == [] and both.listed() == {}
    both.server()
    assert (both.mount() / "report").read_text() == "kept"


def test_a_dead_mount_without_a_record_is_taken_off(both: Stage) -> None:
    """What a holder knows nothing of is found in the mount table alone."""
    point = both.mount()
    for process in both.processes:
        process.kill()
    (both.directory / "holder.sock.volumes" / "v.json").unlink()
    both.holder()
    assert both.listed() == {}
    assert both.ask(Unmount("v", str(point)), Unmounted).count == 1
    assert both.mounted() == []


def test_what_is_not_mounted_any_more_is_forgotten(both: Stage) -> None:
    """Records of volumes that were taken off while there was no holder do not come back."""
    point = both.mount()
    for process in both.processes:
        process.kill()
    subprocess.run(["umount", point], check=True)
    both.holder()
    assert both.listed() == {}
    both.server()
    both.mount()


def test_one_holder_hands_over_to_the_next(both: Stage) -> None:
    """A new holder takes descriptors and connections from the old one: neither clients nor the server notice."""
    old, server = both.processes
    point = both.mount()
    both.mount("w")
    with working(point) as worker:
        new = both.holder("--hand-over")
        worker.goes_on()
        eventually(lambda: not old.running)
        assert both.states() == {"v": "served", "w": "served"}
        assert {one.server for one in both.listed().values()} == {server.pid}
        both.mount("x")
        server.kill()
        both.server(ready="takes over volume v")
        worker.goes_on()
        proven(both, point, worker)
    assert server.log().count("attached to the holder") == 1
    assert new.running
    for name in "vwx":
        assert both.unmount(name) == 1
    assert both.mounted() == []


def test_a_hand_over_that_fails_changes_nothing(both: Stage) -> None:
    """When the new holder dies before it has said that it has everything, the old one goes on."""
    old = both.processes[0]
    both.mount()
    channel = connect(both.socket, DEADLINE)
    channel.send(HandOver())
    channel.receive()
    channel.close()
    old.says("the hand-over failed")
    assert both.states() == {"v": "served"}
    both.mount("w")
    assert both.unmount("w") == 1 and both.unmount() == 1


def test_two_holders_do_not_share_a_socket(both: Stage) -> None:
    """A holder that finds another one at its socket ends, and says how to replace it."""
    second = Process([sys.executable, "-m", "resultsfs.holder", "--socket", both.socket], both.directory / "second.log")
    both.processes.append(second)
    second.says("--hand-over replaces it")
    eventually(lambda: not second.running)
    assert both.mount().is_mount()


def test_no_holder_to_take_over_from(stage: Stage) -> None:
    """--hand-over where nobody is to be replaced is an ordinary start."""
    assert nobody_listens(stage.socket)
    stage.holder("--hand-over")
    stage.server()
    assert stage.mount().is_mount()


def test_a_holder_that_stands_still_stalls_nobody(both: Stage) -> None:
    """While the holder does not answer, files are opened, written and read all the same."""
    holder, point = both.processes[0], both.mount()
    holder.signal(signal.SIGSTOP)
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", f"echo 1 > {point}/a && cat {point}/a && rm {point}/a"],
            capture_output=True,
            timeout=DEADLINE,
            check=True,
        )
        assert done.stdout == b"1\n"
    finally:
        holder.signal(signal.SIGCONT)
    assert both.states() == {"v": "served"}


def test_no_file_stays_registered(both: Stage) -> None:
    """What a server has asked a holder to register for passthrough, and was killed before it heard, is let go of."""
    holder, server = both.processes
    point = both.mount()
    if "passthrough: yes" not in server.log():
        pytest.skip("no passthrough here: " + server.log())
    (point / "f").write_bytes(b"content")
    holder.signal(signal.SIGSTOP)
    with subprocess.Popen(["cat", point / "f"], stdout=subprocess.PIPE) as reader:
        try:
            stack = Path(f"/proc/{server.pid}/stack")
            # it waits for the holder's answer; or it has given that up, after a second
            eventually(lambda: "sys_poll" in stack.read_text() or reader.poll() is not None)
            server.kill()
            holder.signal(signal.SIGCONT)
            both.server(ready="takes over volume v")
            assert reader.communicate(timeout=DEADLINE)[0] == b"content"
        finally:
            holder.signal(signal.SIGCONT)
            reader.kill()
    eventually(lambda: handles(both.directory / "v.spool") == 0)
    os.statvfs(point)  # the server is done with the last release
    assert let_go(holder.pid) == 0


def test_what_cannot_be_taken_over_is_dead(both: Stage) -> None:
    """Where the kernel could not be asked again (before 6.9), clients get an error instead of waiting for ever."""
    point = both.mount()
    (point / "report").write_text("kept")
    both.processes[1].kill()
    session = both.directory / "v.spool" / "session"
    agreed = session / "session.json"
    agreed.write_text(json.dumps({**json.loads(agreed.read_text()), "flags": 0}))
    (session / "in-hand").write_text("1")  # as a server says it that is killed while it serves a request
    script = "import os, sys\ntry: os.stat(sys.argv[1])\nexcept OSError as error: sys.exit(error.errno)"
    with subprocess.Popen([sys.executable, "-c", script, point / "waits"]) as waiting:
        try:
            both.server(ready="cannot be served")
            assert waiting.wait(DEADLINE) in (errno.ENOTCONN, errno.ECONNABORTED)
        finally:
            waiting.kill()
    assert both.states() == {"v": "dead"}
    assert both.unmount() == 1
    assert (both.mount() / "report").read_text() == "kept"


def test_a_take_over_that_fails_is_tried_again(both: Stage) -> None:
    """A spool that cannot be read for the moment keeps clients waiting, and nobody from being served afterwards."""
    point = both.mount()
    (point / "report").write_text("kept")
    both.processes[1].kill()
    journal = both.directory / "v.spool" / "journal.jsonl"
    journal.rename(journal.with_name("aside"))
    journal.mkdir()
    with subprocess.Popen(["cat", point / "report"], stdout=subprocess.PIPE) as reader:
        try:
            server = both.server(ready="cannot be served")
            journal.rmdir()
            journal.with_name("aside").rename(journal)
            server.says("takes over volume v")
            assert reader.communicate(timeout=DEADLINE)[0] == b"kept"
        finally:
            reader.kill()
    assert both.states() == {"v": "served"}


def test_a_record_that_is_none_is_left_alone(stage: Stage) -> None:
    """A file among the records that is no record is named in the log, and keeps nobody from starting."""
    (stage.directory / "holder.sock.volumes").mkdir()
    (stage.directory / "holder.sock.volumes" / "x.json").write_text("{}")
    holder = stage.holder()
    assert "x.json is no record" in holder.log()
    assert stage.listed() == {}
