"""Results that are one file: one decision for all names, and its cost for each of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from resultsfs import message
from resultsfs.collector import Collector
from resultsfs.record import Keep, Mode, ResultType
from resultsfs.reference import WHOLE_ARRAY, Reference

MakeBench = Callable[..., Any]

BIG = b"0123456789abcdef" * 20_000  # 320 KB


def test_every_name_costs_its_entry(bench: MakeBench) -> None:
    """1500 bytes under three names and 1500 under one do not fit a message: the three go, which saves most."""
    volume = bench(("a", "b", "c", "d"))
    volume.write("a", b"x" * 1500)
    for name in "bc":
        volume.file(name).symlink_to("a")
    volume.write("d", b"y" * 1600)
    read = volume.collect()
    assert read["d"] == b"y" * 1600
    assert {volume.content(read[name]) for name in "abc"} == {b"x" * 1500}
    assert len(message.encode(read.items(), exit_code=1)) <= message.LIMIT
    entries = volume.manifest()
    assert {(entries[name].size, entries[name].spilled) for name in "abc"} == {(1500, True)}


def test_the_longest_name_s_line_counts(bench: MakeBench) -> None:
    """In sidecar-logs mode the file is spilled if the line of any of its names is too long."""
    long = "r" * 60
    volume = bench(("a", long), mode=Mode.SIDECAR_LOGS, max_result_size=1000, result_size_threshold=4096)
    volume.write("a", b"x" * 930)
    assert volume.collect() == {"a": b"x" * 930}
    volume.file(long).symlink_to("a")
    read = volume.collect()
    assert {volume.content(read[name]) for name in ("a", long)} == {b"x" * 930}


def test_the_strongest_keep_of_all_names_counts(bench: MakeBench) -> None:
    """Used in `when` under one name, in a matrix under another: it stays inline under each."""
    volume = bench(kept={"b": Keep.SKELETON, "c": Keep.INLINE}, result_size_threshold=100)
    volume.write("a", b"x" * 700)
    for name in "bc":
        volume.file(name).symlink_to("a")
    assert volume.collect() == dict.fromkeys("abc", b"x" * 700)


def test_a_matrix_s_array_has_its_elements_under_all_names(bench: MakeBench) -> None:
    """An array that one name's matrix needs is no whole-array reference under the other."""
    types = {"a": ResultType.ARRAY, "b": ResultType.ARRAY}
    volume = bench(types=types, kept={"b": Keep.SKELETON})
    volume.write("a", json.dumps(["x" * 60] * 500).encode())
    volume.file("b").symlink_to("a")
    assert all(WHOLE_ARRAY.encode() not in value for value in volume.collect().values())
    assert volume.reasons() == ["ResultTooLarge"]


def test_names_of_different_types_are_not_spilled(bench: MakeBench) -> None:
    """A skeleton is no string and a reference no array: the content fails by Tekton's limit, and an Event says why."""
    volume = bench(types={"b": ResultType.ARRAY})
    volume.write("a", json.dumps(["x" * 3000, "y" * 3000]).encode())
    volume.file("b").symlink_to("a")
    read = volume.collect()
    assert {len(read[name]) for name in "ab"} == {message.LIMIT + 1}
    assert volume.reasons() == ["ResultTypesDiffer", "ResultTooLarge"]
    assert "'a' as string, 'b' as array" in volume.host.events[0].message


def test_small_content_of_different_types_is_left_alone(bench: MakeBench) -> None:
    """What fits inline is right under every name, and nobody is asked for its type."""
    volume = bench(types={"b": ResultType.ARRAY})
    volume.write("a", b'["x"]')
    volume.file("b").symlink_to("a")
    assert volume.collect() == {"a": b'["x"]', "b": b'["x"]'}
    assert volume.host.asked_types == 0
    assert volume.reasons() == []


@pytest.mark.parametrize("content", [b"x" * 3000, BIG])
def test_a_new_name_is_not_left_to_the_step_before(bench: MakeBench, content: bytes) -> None:
    """The collector before reads the file under its old name only; where it is short of room, too, this one carries it."""
    volume = bench()
    volume.write("a", content)
    first = volume.volume.collection(Collector(os.getpid(), 1))  # a process that lives
    volume.file("b").symlink_to("a")
    volume.write("c", b"y" * 3500)
    second = volume.collect()
    assert set(second) == {"a", "b", "c"}
    assert volume.content(second["b"]) == content
    before = volume.read(first, "a")
    assert before == content or Reference.match(before.decode()) is not None
    assert volume.collect() == {}


def test_links_survive_another_daemon(bench: MakeBench) -> None:
    """A collector's view is kept with all names of a file: another server leads each of them to it."""
    volume = bench()
    volume.write("report.txt", BIG)
    for name in "ab":
        volume.file(name).symlink_to("report.txt")
    collector = Collector(os.getpid(), 1)
    volume.volume.collection(collector)
    volume.stop()
    volume.start()
    again = volume.volume.collection(collector)
    assert again.name_at("/report.txt") == "a"
    assert again.name_at("/other") is None
    assert volume.content(volume.read(again, "b")) == BIG
    assert volume.collect() == {}


def test_collector_of_an_older_server_is_gone_on_with(bench: MakeBench) -> None:
    """What it kept names one result and path each; what is kept now has these too, for when an upgrade is taken back."""
    volume = bench()
    volume.write("report.txt", BIG)
    volume.file("a").symlink_to("report.txt")
    collector = Collector(os.getpid(), 1)
    volume.volume.collection(collector)
    volume.stop()
    (kept,) = (volume.directory / "session" / "collections").iterdir()
    state = json.loads(kept.read_text())
    for key in ("files", "unreadable"):
        del state[key]
    for item in state["items"]:
        del item["names"]
        assert (item["name"], item["path"]) == ("a", "/report.txt")
    kept.write_text(json.dumps(state))
    volume.start()
    again = volume.volume.collection(collector)
    assert again.name_at("/report.txt") == "a"
    assert volume.content(volume.read(again, "a")) == BIG
