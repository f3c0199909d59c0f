"""A server that is killed or replaced while results are collected, stored and read by reference."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from resultsfs.kernel.protocol import Opcode
from tests.support.takeover import TakenOver, taken_over
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]
BIG = os.urandom(300_000)


HALF = """
import os, sys
file = os.open("report", os.O_RDONLY)
size = os.fstat(file).st_size
part = os.pread(file, 20, 0)
print(size, flush=True)
sys.stdin.readline()
again = open("report", "rb").read()
rest = os.pread(file, 1000, 20)
os.close(file)
print((part + rest).decode(), again == part + rest, os.stat("report").st_size == size, flush=True)
"""


@pytest.mark.parametrize("content", [BIG, b"small and inline, but longer than twenty bytes"], ids=["spilled", "inline"])
@pytest.mark.parametrize("planned", [False, True], ids=["killed", "replaced"])
def test_a_collector_goes_on(plain: TakenOver, content: bytes, planned: bool) -> None:
    """A collector that has read half of a publication reads the rest of the very same, though the file has changed."""
    (plain.path / "report").write_bytes(content)
    with plain.collector(HALF) as collector:
        assert collector.stdout is not None
        assert collector.stdin is not None
        size = int(collector.stdout.readline())
        (plain.path / "report").write_bytes(b"changed meanwhile")
        plain.succeed(planned=planned)
        plain.succeed(planned=planned)
        collector.stdin.write(b"\n")
        collector.stdin.flush()
        text, again, same_size = collector.stdout.readline().rsplit(b" ", 2)
        assert (again, same_size.strip(), len(text)) == (b"True", b"True", size)
    shown = content if size == len(content) else (plain.path / ".ref" / text.decode().rpartition("/")[2]).read_bytes()
    assert shown == content
    assert (plain.path / "report").read_bytes() == b"changed meanwhile"


def test_what_a_collector_has_not_opened_yet_is_frozen_too() -> None:
    """Results that a collector opens after the take-over are what they were at its first open; a later collector finds
    only what is new."""
    script = (
        "import sys\nprint(open('a').read(), flush=True)\nsys.stdin.readline()\nprint(open('b').read(), flush=True)"
    )
    with taken_over(results=("a", "b")) as mount:
        (mount.path / "a").write_text("first a")
        (mount.path / "b").write_text("first b")
        with mount.collector(script) as collector:
            assert collector.stdout is not None
            assert collector.stdin is not None
            assert collector.stdout.readline() == b"first a\n"
            (mount.path / "b").write_text("second b")
            mount.succeed()
            collector.stdin.write(b"\n")
            collector.stdin.flush()
            assert collector.stdout.readline() == b"first b\n"
        assert mount.collect("a", "b").stdout == b"second b"


def test_a_waiting_collector_goes_on_waiting(tmp_path: Path) -> None:
    """A collector that waits for a store that is away gets its reference from another server, when the store is back."""
    store = tmp_path / "store"
    store.write_text("in the way")
    with taken_over(settings={"store": f"file://{store}/inner", "spill-deadline": "1h"}) as mount:
        (mount.path / "report").write_bytes(BIG)
        with subprocess.Popen([mount.cat, mount.path / "report"], stdout=subprocess.PIPE) as collector:
            try:
                eventually(lambda: any((mount.spool / "session" / "collections").glob("*.json")))
                mount.succeed()
                mount.succeed(planned=True)
                store.unlink()
                assert collector.stdout is not None
                reference = collector.stdout.read().decode()
                assert collector.wait(100) == 0
            finally:
                collector.kill()
        assert (mount.path / ".ref" / reference.rpartition("/")[2]).read_bytes() == BIG


@pytest.mark.parametrize("gone", ["unlinked", "replaced"])
def test_what_a_collector_waits_for_may_lose_its_name(tmp_path: Path, gone: str) -> None:
    """A result that is unlinked or replaced while its collector waits, and then the server dies, is published."""
    store = tmp_path / "store"
    store.write_text("in the way")
    with taken_over(settings={"store": f"file://{store}/inner", "spill-deadline": "1h"}) as mount:
        (mount.path / "report").write_bytes(BIG)
        with subprocess.Popen([mount.cat, mount.path / "report"], stdout=subprocess.PIPE) as collector:
            try:
                eventually(lambda: any((mount.spool / "session" / "collections").glob("*.json")))
                mount.succeed()
                if gone == "unlinked":
                    os.unlink(mount.path / "report")
                else:
                    (mount.path / "aside").write_bytes(b"another")
                    os.rename(mount.path / "aside", mount.path / "report")
                mount.succeed()
                mount.succeed()
                store.unlink()
                assert collector.stdout is not None
                reference = collector.stdout.read().decode()
                assert collector.wait(100) == 0
            finally:
                collector.kill()
        assert (mount.path / ".ref" / reference.rpartition("/")[2]).read_bytes() == BIG
        eventually(lambda: os.listdir(mount.spool / "session" / "held") == [])


def test_a_collector_that_writes(plain: TakenOver) -> None:
    """A collector that is about to change the result, while the server dies, changes the file."""
    (plain.path / "report").write_bytes(b"before")
    script = "import os; os.stat('report'); open('report', 'w').write('after')"
    for _ in range(2):
        with plain.dying(Opcode.OPEN, "after"), plain.collector(script) as collector:
            assert collector.stderr is not None
            assert collector.stderr.read() == b""
            assert collector.wait(100) == 0
    assert (plain.path / "report").read_bytes() == b"after"


def test_readers_of_references_go_on(plain: TakenOver) -> None:
    """Content by reference is read on where it was, and opened by a name that was looked up before."""
    (plain.path / "report").write_bytes(BIG)
    reference = plain.path / ".ref" / plain.collect("report").stdout.decode().rpartition("/")[2]
    with open(reference, "rb", buffering=0) as file:
        assert file.read(1000) == BIG[:1000]
        directory = os.open(plain.path / ".ref", os.O_RDONLY)
        try:
            plain.succeed()
            assert file.read(1 << 20) + file.read() == BIG[1000:]
            assert reference.read_bytes() == BIG
            assert os.stat(reference.name, dir_fd=directory).st_size == len(BIG)
            assert os.listdir(directory) == []
        finally:
            os.close(directory)
    eventually(lambda: plain.handles() == 0)


def test_the_first_reference_may_be_read_from_another_server(plain: TakenOver) -> None:
    """`.ref` that was looked up before leads to content that nobody has asked for yet."""
    (plain.path / "report").write_bytes(BIG)
    reference = plain.path / ".ref" / plain.collect("report").stdout.decode().rpartition("/")[2]
    assert (plain.path / ".ref").is_dir()
    plain.succeed()
    assert reference.read_bytes() == BIG


def test_uploads_go_on(plain: TakenOver) -> None:
    """What was closed before the kill is uploaded by the next server, with nobody asking."""
    with open(plain.path / "report", "wb", buffering=0) as file:
        file.write(BIG)
        plain.succeed()
    eventually(lambda: b"stored" in (plain.spool / "journal.jsonl").read_bytes())
