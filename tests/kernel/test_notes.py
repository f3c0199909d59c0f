"""What a server notes for the next one: as much as it must, and not for ever."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from resultsfs.collector import Collector
from resultsfs.errors import ResultTooLarge
from resultsfs.kernel.notes import Notes
from tests.support.takeover import TakenOver
from tests.support.waiting import eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")
BOUND = 40_000  # bytes; 16 KiB, and what one doubling and one more line add


def test_notes_of_the_dead_do_not_pile_up(tmp_path: Path) -> None:
    """What collectors were shown goes when they have; the living's, references and files that were cut stay."""
    living, found = Collector(1, 1), os.stat(tmp_path)
    notes = Notes(tmp_path)
    notes.keep = lambda collector: collector == living
    notes.view(10, "/report", living, found)
    notes.writes("/report", living)
    notes.reference(11, "a-digest")
    notes.exceeded(12, ResultTooLarge("too large"))
    largest = 0
    for number in range(2_000):
        dead = Collector(number + 2, 1)
        notes.view(number + 100, "/report", dead, found)
        notes.writes("/report", dead)
        notes.wrote("/report", dead)
        largest = max(largest, (tmp_path / "nodes.jsonl").stat().st_size)
    notes.close()
    assert largest < BOUND
    again = Notes(tmp_path)
    assert {nodeid: kept[:2] for nodeid, kept in again.views.items() if nodeid < 100} == {10: ("/report", living)}
    assert again.writers == {(living, "/report")}
    assert again.references == {11: "a-digest"}
    assert [str(error) for error in again.cut.values()] == [str(ResultTooLarge("too large"))]
    again.close()


@pytest.mark.mount
@needs_root
def test_files_of_the_dead_do_not_pile_up(plain: TakenOver) -> None:
    """However many collectors there were, their files are those of the last few."""
    (plain.path / "report").write_text("x" * 100)
    kept = plain.spool / "session" / "collections"
    commands = [[str(plain.cat), str(plain.path / "report")]] * 30
    for command in commands:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)

    def few() -> bool:  # the kernel lets go of a handle some time after the process has ended
        subprocess.run(commands[0], stdout=subprocess.DEVNULL, check=False)
        return len(os.listdir(kept)) <= 2

    eventually(few)


LEFT = """
import os, sys
file = os.open("report", os.O_RDONLY)
print(os.pread(file, 5, 0).decode(), flush=True)
if os.fork() == 0:
    sys.stdin.readline()
    print(os.pread(file, 100, 5).decode(), flush=True)
"""


@pytest.mark.mount
@needs_root
def test_what_a_collector_left_open_is_kept(plain: TakenOver) -> None:
    """A child reads on where its collector was, though that has ended, others have come, and the server was killed."""
    (plain.path / "report").write_text("first report")
    with plain.collector(LEFT) as collector:
        assert collector.stdout is not None
        assert collector.stdin is not None
        assert collector.stdout.readline() == b"first\n"
        assert collector.wait(100) == 0
        for turn in range(3):
            (plain.path / "report").write_text(f"another {turn}")
            assert plain.collect("report").stdout == f"another {turn}".encode()
        plain.succeed()
        plain.succeed()
        assert plain.collect("report").stdout == b""
        collector.stdin.write(b"\n")
        collector.stdin.flush()
        assert collector.stdout.readline() == b" report\n"
