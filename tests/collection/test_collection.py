"""What a collector reads, rule by rule."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resultsfs import message
from resultsfs.collector import Collector
from resultsfs.record import Keep, Mode
from resultsfs.reference import Reference
from tests.support.waiting import DEADLINE

BIG = b"0123456789abcdef" * 20_000  # 320 KB

MakeBench = Callable[..., Any]


def test_small_results_are_inline_and_never_touch_the_store(bench: MakeBench) -> None:
    """Results that fit are read as they are, with their trailing newline, and nothing is stored."""
    volume = bench()
    volume.write("a", b"1.2.3\n")
    volume.write("b", b"")
    assert volume.collect() == {"a": b"1.2.3\n", "b": b""}
    assert list(volume.store.runs()) == []
    assert volume.host.asked_types == 0


def test_large_result_is_a_reference_to_what_is_stored(bench: MakeBench) -> None:
    """A large result is read as a reference, whose content is durable and the file's; the manifest lists both kinds."""
    volume = bench()
    volume.write("a", BIG)
    volume.write("b", b"small")
    read = volume.collect()
    assert volume.content(read["a"]) == BIG
    assert Reference.parse(read["a"].decode()).sha256 == hashlib.sha256(BIG).hexdigest()
    assert read["b"] == b"small"
    entries = volume.manifest()
    assert (entries["a"].size, entries["a"].spilled, entries["a"].type) == (len(BIG), True, "string")
    assert (entries["b"].size, entries["b"].spilled) == (5, False)
    assert entries["a"].sha256 == hashlib.sha256(BIG).hexdigest()


def test_publications_are_fixed_at_the_first_open(bench: MakeBench) -> None:
    """What the next step does after a collector's first open changes nothing for that collector."""
    volume = bench()
    volume.write("a", b"first")
    volume.write("b", b"second")
    collection = volume.collector()
    assert volume.read(collection, "a") == b"first"
    volume.write("b", b"changed")
    volume.write("c", b"new")
    assert volume.read(collection, "b") == b"second"
    assert volume.read(collection, "c") is None
    assert volume.collect() == {"b": b"changed", "c": b"new"}


def test_unchanged_results_are_left_out_of_later_messages(bench: MakeBench) -> None:
    """A later collector finds only what is new: each message carries its own results, and all of them fit."""
    names = tuple(f"r{at}" for at in range(12))
    volume = bench(names, containers=12)
    for at, name in enumerate(names):
        volume.write(name, bytes([97 + at]) * 800)
        assert set(volume.collect()) == {name}
    volume.write("r3", b"again")
    assert volume.collect() == {"r3": b"again"}


def test_unread_publication_is_offered_again(bench: MakeBench) -> None:
    """A collector that opened a result and did not read it to its end has not carried it: the next one reads it."""
    volume = bench()
    volume.write("a", b"value")
    assert volume.collector().read("a", lambda: False) == b"value"
    assert volume.collect() == {"a": b"value"}


def test_unchanged_large_result_is_not_uploaded_or_read_twice(bench: MakeBench) -> None:
    """The second step's collector finds a large result gone from its message, and the third one a rewritten one."""
    volume = bench()
    volume.write("a", BIG)
    first = volume.collect()["a"]
    assert volume.collect() == {}
    volume.write("a", BIG[::-1])
    second = volume.collect()["a"]
    assert second != first
    assert volume.content(second) == BIG[::-1]


def test_budget_spills_what_does_not_fit_together(bench: MakeBench) -> None:
    """Two results of 2500 bytes fit alone and not together: one is spilled, and the real message fits."""
    volume = bench()
    volume.write("a", b"x" * 2500)
    volume.write("b", b"y" * 2400)
    read = volume.collect()
    assert read["b"] == b"y" * 2400
    assert volume.content(read["a"]) == b"x" * 2500
    assert len(message.encode(read.items(), exit_code=1)) <= message.LIMIT


def test_live_pod_s_containers_count(bench: MakeBench) -> None:
    """Another webhook added containers after admission: the budget is that of the live pod, asked for once."""
    volume = bench(containers=2, live=12)
    volume.write("a", b"x" * 2000)
    read = volume.collect()
    assert Reference.match(read["a"].decode()) is not None
    volume.collect()
    assert volume.host.asked_containers == 1


def test_sixty_results_fit_the_share_of_twelve_containers(bench: MakeBench) -> None:
    """Twelve steps with five results each: every message fits its share of the pod's 12288 bytes."""
    names = tuple(f"result-{at}" for at in range(60))
    volume = bench(names, containers=13)
    for step in range(12):
        for name in names[step * 5 : step * 5 + 5]:
            volume.write(name, (f"{name} of step {step} " * 20).encode())
        read = volume.collect()
        assert set(read) == set(names[step * 5 : step * 5 + 5])
        assert len(message.encode(read.items(), exit_code=1)) <= message.kubelet_limit(13)


def test_two_steps_at_once_fit_their_own_messages(bench: MakeBench) -> None:
    """A step has begun to read its results when the next one, which Tekton had started, reads: each carries its own."""
    names = tuple(f"result-{at}" for at in range(12))
    volume = bench(names, containers=13)
    for name in names[:6]:
        volume.write(name, name.encode() * 50)
    first = volume.volume.collection(Collector(os.getpid(), 1))  # a process that lives
    before = {names[0]: volume.read(first, names[0])}
    for name in names[6:]:
        volume.write(name, name.encode() * 60)
    second = volume.collect()
    assert set(second) == set(names[6:])
    before |= {name: volume.read(first, name) for name in names[1:]}
    assert {name for name, value in before.items() if value is not None} == set(names[:6])
    for read in (before, second):
        carried = {name: value for name, value in read.items() if value is not None}
        assert all(volume.content(value) for value in carried.values())
        assert len(message.encode(carried.items(), exit_code=0)) <= message.kubelet_limit(13)


def test_kept_inline_is_never_spilled(bench: MakeBench) -> None:
    """A result used in `when` stays inline above the threshold, and pushes others out instead."""
    volume = bench(kept={"a": Keep.INLINE}, result_size_threshold=200)
    volume.write("a", b"x" * 3000)
    volume.write("b", b"y" * 1500)
    read = volume.collect()
    assert read["a"] == b"x" * 3000
    assert volume.content(read["b"]) == b"y" * 1500


def test_kept_inline_that_cannot_fit_fails_as_in_stock_tekton(bench: MakeBench) -> None:
    """It is served one byte beyond the limit at most, so Tekton's own check refuses it, and an Event says why."""
    volume = bench(kept={"a": Keep.INLINE})
    volume.write("a", BIG)
    read = volume.collect()
    assert len(read["a"]) == message.LIMIT + 1
    assert len(message.encode(read.items())) > message.LIMIT
    event = volume.host.events[0]
    assert event.reason == "ResultTooLarge"
    assert "'a'" in event.message
    assert "312.5 KiB" in event.message


def test_what_only_the_kubelet_would_cut_fails_tekton_s_check(bench: MakeBench) -> None:
    """1500 bytes in a pod of twelve containers would be cut silently: the message is made to fail visibly instead."""
    volume = bench(kept={"a": Keep.INLINE}, containers=12)
    volume.write("a", b"x" * 1500)
    read = volume.collect()
    assert len(message.encode(read.items())) > message.LIMIT
    assert volume.reasons() == ["ResultTooLarge"]
    assert volume.spool.published == {}


def test_too_many_references_fail_visibly(bench: MakeBench) -> None:
    """Forty large results of one step do not even fit as references of a twelve container pod: no silent loss."""
    names = tuple(f"r{at}" for at in range(40))
    volume = bench(names, containers=12)
    for name in names:
        volume.write(name, name.encode() * 3000)
    read = volume.collect()
    assert len(message.encode(read.items())) > message.LIMIT
    assert volume.reasons() == ["ResultsTooLarge"]
    assert (
        "40 results of one step do not fit the termination message of a pod with 12 containers"
        in volume.host.events[0].message
    )


@pytest.mark.parametrize("size", [60, 900])
def test_too_many_small_results_fail_with_an_event(bench: MakeBench, size: int) -> None:
    """120 results of one step do not fit one message, neither inline nor as references: an Event says how many bytes
    they need, how many there are, and which are the largest."""
    names = tuple(f"r{at}" for at in range(120))
    volume = bench(names)
    for at, name in enumerate(names):
        volume.write(name, f"{at:03}".encode() * (size // 3) + b"x" * 5 * (at == 7))
    read = volume.collect()
    assert len(message.encode(read.items())) > message.LIMIT
    (event,) = volume.host.events
    assert event.reason == "ResultsTooLarge"
    assert f"{len(message.encode(read.items())) - message.FIXED_COST} bytes of 3991" in event.message
    assert "120 results" in event.message
    assert ("the largest are 'r7' with 98, " in event.message) == (size < 87)


def test_kept_results_that_do_not_fit_together_are_named(bench: MakeBench) -> None:
    """Each alone would fit, both together do not: the Event names them, and the message fails Tekton's check."""
    volume = bench(kept={"a": Keep.INLINE, "b": Keep.INLINE})
    volume.write("a", b"x" * 2100)
    volume.write("b", b"y" * 2500)
    read = volume.collect()
    assert len(message.encode(read.items())) > message.LIMIT
    (event,) = volume.host.events
    assert event.reason == "ResultsTooLarge"
    assert "'b' with 2532, 'a' with 2132 bytes" in event.message


def test_chains_names_are_spared_and_spilled_last(bench: MakeBench) -> None:
    """IMAGES above the threshold stays inline while it fits; when nothing else can go it is spilled, with an Event."""
    volume = bench(("IMAGES", "b"), result_size_threshold=1000)
    volume.write("IMAGES", b"i" * 3000)
    volume.write("b", b"y" * 1500)
    read = volume.collect()
    assert read["IMAGES"] == b"i" * 3000
    assert volume.content(read["b"]) == b"y" * 1500
    volume.write("IMAGES", b"j" * 4572)
    assert volume.content(volume.collect()["IMAGES"]) == b"j" * 4572
    assert "ChainsResultSpilled" in volume.reasons()


def test_sidecar_logs_bound_each_line(bench: MakeBench) -> None:
    """In sidecar-logs mode each result has max-result-size for itself, and nothing is shared."""
    names = tuple("abcdef")
    volume = bench(names, mode=Mode.SIDECAR_LOGS, max_result_size=3000, result_size_threshold=100_000)
    for name in names[:-1]:
        volume.write(name, b"x" * 2900)
    volume.write("f", b"x" * 2990)
    read = volume.collect()
    assert [len(read[name]) for name in names[:-1]] == [2900] * 5
    assert volume.content(read["f"]) == b"x" * 2990


def test_vanished_result_stays_published(bench: MakeBench) -> None:
    """A result moved away after it was published answers ENOENT to the next collector, and its content stays."""
    volume = bench()
    volume.write("a", BIG)
    reference = volume.collect()["a"]
    volume.file("a").rename(volume.directory / "elsewhere")
    assert volume.collect() == {}
    assert volume.content(reference) == BIG


def test_result_unlinked_while_it_is_awaited_is_published(bench: MakeBench) -> None:
    """The collector opened it, so its content is published although the name goes meanwhile."""
    volume = bench(spill_delay=60)
    volume.write("a", BIG)
    collection = volume.collector()
    volume.file("a").unlink()
    assert volume.content(volume.read(collection, "a")) == BIG


@pytest.mark.parametrize("kind", ["directory", "socket", "outside", "dangling", "loop"])
def test_what_is_no_file_of_the_volume_is_absent(bench: MakeBench, kind: str) -> None:
    """A directory, socket, or link out of the volume at a result's name is never read."""
    volume = bench()
    path = volume.file("a")
    if kind == "directory":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, 0o140666)
    else:
        path.symlink_to({"outside": "/etc/passwd", "dangling": "nowhere", "loop": "a"}[kind])
    volume.write("b", b"fine")
    assert volume.collect() == {"b": b"fine"}


def test_fifo_never_hangs_a_collector(bench: MakeBench) -> None:
    """A FIFO at a result's name is not collected, and an Event says so."""
    volume = bench()
    os.mkfifo(volume.file("a"))
    assert volume.collect() == {}
    assert volume.reasons() == ["ResultNotAFile"]


def test_link_inside_the_volume_is_followed(bench: MakeBench) -> None:
    """A result that is a link to another file of the volume is weighed and spilled as that file."""
    volume = bench()
    volume.write("report.txt", BIG)
    volume.file("d").mkdir()
    volume.file("d/up").symlink_to("../report.txt")
    volume.file("a").symlink_to("/tekton/results/d/up")
    assert volume.content(volume.collect()["a"]) == BIG


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("../results/report.txt", True),
        ("../../tekton/results/d/../report.txt", True),
        ("/tekton/results/../results/report.txt", True),
        ("../steps/../results/report.txt", False),  # whether there are steps is not known here
        ("../report.txt", False),
        ("../../results/report.txt", False),
        ("..", False),
    ],
)
def test_link_that_leaves_and_comes_back_is_followed(bench: MakeBench, target: str, found: bool) -> None:
    """Above the volume is /tekton, and in it, as `results`, the volume: a link by that way leads to the file all the same."""
    volume = bench()
    volume.write("report.txt", BIG)
    volume.file("d").mkdir()
    volume.file("a").symlink_to(target)
    read = volume.collect()
    assert (set(read), [volume.content(value) for value in read.values()]) == (({"a"}, [BIG]) if found else (set(), []))


def test_background_upload_comes_before_the_collector(bench: MakeBench) -> None:
    """A closed large result is uploaded after its quiet time, before anybody collects."""
    volume = bench()
    volume.write("a", BIG)
    stored = threading.Event()
    note = volume.spool.note_stored

    def noted(*args: Any) -> None:
        note(*args)
        stored.set()

    volume.spool.note_stored = noted
    volume.write("a", BIG + b"!")
    assert stored.wait(DEADLINE)
    runs = list(volume.store.runs())
    assert runs == [("default", volume.record.run_uid)]


def test_collected_before_its_quiet_time_is_uploaded_once(bench: MakeBench) -> None:
    """A result that a collector asked for within spill-delay is not sent again when the delay is over."""
    volume = bench(spill_delay=0.05)
    sent = []
    put = volume.store.put

    def counted(key: Any, *arguments: Any, **more: Any) -> None:
        sent.append(key)
        put(key, *arguments, **more)

    volume.store.put = counted
    volume.write("a", BIG)
    volume.write("b", BIG + b"!")
    reference = volume.collect()["a"]
    # a job that is due after the quiet ones; what is sent by then is all
    last = threading.Event()
    for _worker in range(2):
        volume.workers[0].submit(last.set, 0.3)
    assert last.wait(DEADLINE)
    assert volume.content(reference) == BIG
    assert len(sent) == 2
