"""Collection while things go wrong: the store away, files changing, the daemon killed."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resultsfs import message
from resultsfs.errors import StoreUnavailable, UploadAbandoned
from resultsfs.record import Mode, ResultType
from resultsfs.reference import Reference
from resultsfs.settings import Settings
from resultsfs.uploads import FileSource
from tests.support.waiting import DEADLINE, eventually

BIG = b"0123456789abcdef" * 20_000
MakeBench = Callable[..., Any]


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A store at a port where nobody listens, given up on soon."""
    for name, value in (("ID", "nobody"), ("SECRET", "nothing")):
        monkeypatch.setenv(f"AWS_ACCESS_KEY_{name}" if name == "ID" else "AWS_SECRET_ACCESS_KEY", value)
    with socket.socket() as deaf:  # bound and not listening: nobody else can begin to
        deaf.bind(("127.0.0.1", 0))
        yield Settings(
            store="s3://bucket/prefix",
            s3_endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}",
            s3_region="us-east-1",
            store_retries=0,
            store_timeout=1.0,
            spill_delay=0.0,
            spill_deadline=0.5,
        )


def test_store_away_what_fits_stock_tekton_still_works(bench: MakeBench, nowhere: Settings) -> None:
    """Results spilled only for a lowered threshold come inline after the deadline, whole, with Events that say why."""
    volume = bench(settings=Settings(**{**_fields(nowhere), "result_size_threshold": 100, "spill_deadline": 8.0}))
    with pytest.raises(StoreUnavailable):  # the first request loads the client, which may take seconds
        volume.store.probe()
    volume.write("a", b"x" * 1500)
    volume.write("b", b"y" * 1500)
    assert volume.collect() == {"a": b"x" * 1500, "b": b"y" * 1500}
    spilled = {event.result: event.message for event in volume.host.events if event.reason == "ResultSpillFailed"}
    assert set(spilled) == {"a", "b"}
    assert all("(1.5 KiB)" in text and "spill-deadline" in text and "127.0.0.1" in text for text in spilled.values())


def test_store_away_what_does_not_fit_fails_as_in_stock_tekton(bench: MakeBench, nowhere: Settings) -> None:
    """A large result is served one byte beyond Tekton's limit: its own check fails it, never an I/O error."""
    volume = bench(settings=nowhere)
    volume.write("a", BIG)
    read = volume.collect()
    assert read == {"a": BIG[: message.LIMIT + 1]}
    assert volume.spool.published == {}


def test_store_away_in_a_pod_of_many_containers_loses_nothing_silently(bench: MakeBench, nowhere: Settings) -> None:
    """What would fit 4096 bytes but not the kubelet's share fails Tekton's check instead of being cut."""
    volume = bench(settings=nowhere, containers=12)
    volume.write("a", b"x" * 1500)
    assert len(message.encode(volume.collect().items())) > message.LIMIT


def test_store_away_in_sidecar_mode(bench: MakeBench, nowhere: Settings) -> None:
    """The line is one byte beyond max-result-size, so that Tekton fails the TaskRun with its own reason."""
    volume = bench(settings=nowhere, mode=Mode.SIDECAR_LOGS, max_result_size=5000)
    volume.write("a", BIG)
    assert len(volume.collect()["a"]) == 5001


def test_store_away_arrays_are_served_as_they_are(bench: MakeBench, nowhere: Settings) -> None:
    """No half skeleton: where one element could not be stored the array itself is served."""
    volume = bench(settings=nowhere, types={"a": ResultType.ARRAY})
    content = json.dumps(["x" * 9000, "y" * 9000]).encode()
    volume.write("a", content)
    assert volume.collect() == {"a": content[: message.LIMIT + 1]}


def test_collector_that_is_killed_stops_waiting(bench: MakeBench, nowhere: Settings) -> None:
    """A waiting open ends as soon as its process is dying, long before the deadline."""
    volume = bench(settings=Settings(**{**_fields(nowhere), "spill_deadline": 3600.0}))
    volume.write("a", BIG)
    with pytest.raises(InterruptedError):
        volume.collector().read("a", lambda: True)


def test_store_that_comes_back_in_time(bench: MakeBench, nowhere: Settings, tmp_path: Any) -> None:
    """While the collector waits the store returns: the reference is published after all."""
    volume = bench(settings=Settings(**{**_fields(nowhere), "spill_deadline": 3600.0}))
    good = bench()
    broken = volume.store
    volume.write("a", BIG)
    failed = threading.Event()
    report = volume.host.event

    def event(found: Any) -> None:
        report(found)
        failed.set()

    volume.host.event = event
    read: list[dict[str, bytes]] = []
    collector = threading.Thread(target=lambda: read.append(volume.collect()))
    collector.start()
    assert failed.wait(DEADLINE)
    volume.store = good.store
    collector.join(DEADLINE)
    broken.close()
    assert volume.content(read[0]["a"]) == BIG


def test_what_a_reference_names_is_a_state_the_file_had(bench: MakeBench) -> None:
    """A writer never stops while the file is collected: the content stored is whole, and one the file had.

    Each write replaces the file's only block, under a lock that the reads of a private copy cannot see; what may
    be read is any one value throughout, for the block is smaller than a page.
    """
    volume = bench(spill_delay=60, result_size_threshold=100)
    path = volume.file("a")
    path.write_bytes(b"\0" * 3000)
    node = volume.volume.nodes.get(path.stat())
    stop, written = threading.Event(), threading.Event()

    def writer() -> None:
        descriptor, value = os.open(path, os.O_WRONLY), 0
        while not stop.is_set():
            value = (value + 1) % 256
            os.pwrite(descriptor, bytes([value]) * 3000, 0)
            volume.volume.nodes.changed(node, 3000)
            written.set()
        os.close(descriptor)

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        assert written.wait(DEADLINE)
        values = [volume.collect().get("a") for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    contents = [volume.content(value) for value in values if value is not None]
    assert contents
    assert all(len(set(content)) == 1 and len(content) == 3000 for content in contents)


def test_large_file_that_keeps_changing_is_copied(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of several MiB under a steady writer ends as a private copy whose digest is the reference's."""
    volume = bench(spill_delay=60)
    path = volume.file("a")
    path.write_bytes(b"\0" * (6 << 20))
    node = volume.volume.nodes.get(path.stat())
    stop = threading.Event()
    copies: list[int] = []
    private = volume.spool.private_copy

    def copied(descriptor: int) -> int:
        copies.append(descriptor)
        return int(private(descriptor))

    volume.spool.private_copy = copied

    turns = [0]

    def writer() -> None:
        descriptor = os.open(path, os.O_WRONLY)
        while not stop.is_set():
            os.pwrite(descriptor, os.urandom(64), 4 << 20)
            volume.volume.nodes.changed(node, 6 << 20)
            turns[0] += 1
        os.close(descriptor)

    read_by_chunks = FileSource.chunks

    def chunks(source: FileSource) -> Iterator[bytes]:
        """The content, and a write in the middle of it, however slow the writer is."""
        for number, chunk in enumerate(read_by_chunks(source)):
            if number == 2 and not copies:
                enough = turns[0] + 2  # one may have been under way
                eventually(lambda enough=enough: turns[0] >= enough)  # type: ignore[misc]
            yield chunk

    monkeypatch.setattr(FileSource, "chunks", chunks)

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        read = volume.collect()["a"]
    finally:
        stop.set()
        thread.join()
    content = volume.content(read)
    assert len(content) == 6 << 20
    assert hashlib.sha256(content).hexdigest() == Reference.parse(read.decode()).sha256
    assert len(copies) == 1


def test_daemon_killed_with_results_staged_loses_nothing(bench: MakeBench) -> None:
    """After a restart on the same spool, closed results are uploaded, and published ones are not sent again."""
    volume = bench(spill_delay=60)
    volume.write("a", BIG)
    volume.write("b", b"kept")
    assert volume.collect().keys() == {"a", "b"}
    volume.write("c", BIG[::-1])
    volume.volume.close()  # the spool is left as a killed daemon leaves it: nothing is flushed or tidied
    with (volume.directory / "journal.jsonl").open("a") as journal:
        journal.write('{"published": {"name": "b", "torn')
    for workers in volume.workers:
        workers.close()
    volume.spool.close()
    volume.start()
    read = volume.collect()
    assert read.keys() == {"c"}
    assert volume.content(read["c"]) == BIG[::-1]
    lines = (volume.directory / "journal.jsonl").read_bytes().splitlines()
    assert all(json.loads(line) for line in lines)


def test_unfinished_background_upload_is_begun_again_after_a_restart(bench: MakeBench) -> None:
    """What a killed daemon did not get round to uploading is uploaded by its successor without being asked."""
    volume = bench(spill_delay=3600)
    volume.write("a", BIG)
    volume.stop()
    volume.start()
    eventually(lambda: bool(volume.spool.stored))
    assert volume.spool.stored == {hashlib.sha256(BIG).hexdigest()}


def test_mtime_set_back_does_not_hide_a_change(bench: MakeBench) -> None:
    """A result rewritten in place with its old size and mtime is hashed again, also after a restart."""
    volume = bench()
    volume.write("a", BIG)
    first = volume.collect()["a"]
    times = volume.file("a").stat()
    volume.write("a", BIG[::-1])
    os.utime(volume.file("a"), ns=(times.st_atime_ns, times.st_mtime_ns))
    volume.stop()
    volume.start()
    second = volume.collect()["a"]
    assert second != first
    assert volume.content(second) == BIG[::-1]


def _fields(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


class HangingManifests:
    """The store answers everything but the manifest's PUT, which waits until its stop() says so or `go` is set."""

    def __init__(self, volume: Any) -> None:
        self.asked, self.go = threading.Event(), threading.Event()
        self._put = volume.store.put_manifest
        volume.store.put_manifest = self

    def __call__(self, *arguments: Any, stop: Callable[[], bool], **more: Any) -> None:
        """Hang, then do it."""
        self.asked.set()
        while not self.go.wait(0.02):
            if stop():
                raise UploadAbandoned("the manifest was given up")
        self._put(*arguments, stop=stop, **more)


def test_store_that_hangs_at_the_manifest(bench: MakeBench) -> None:
    """The content is durable, so after the deadline the reference is published; the manifest follows later."""
    volume = bench(spill_deadline=0.5)
    manifests = HangingManifests(volume)
    volume.write("a", BIG)
    eventually(lambda: bool(volume.spool.stored))  # or a slow machine would miss the deadline with that already
    assert volume.content(volume.collect()["a"]) == BIG
    assert "ManifestNotWritten" in volume.reasons()
    assert volume.manifest() == {}
    manifests.go.set()
    eventually(lambda: bool(volume.manifest()))
    assert volume.manifest()["a"].size == len(BIG)


def test_collector_that_died_waiting_holds_up_nobody(bench: MakeBench) -> None:
    """While the store hangs, a later collector reads its small results at once, and the volume closes."""
    volume = bench(spill_deadline=3600)
    manifests = HangingManifests(volume)
    volume.write("a", BIG)
    dead = threading.Event()
    waiting = volume.collector()
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            waiting.read("a", dead.is_set)
        except OSError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert manifests.asked.wait(DEADLINE)
    dead.set()
    thread.join(DEADLINE)
    assert [type(error) for error in ended] == [InterruptedError]
    volume.write("b", b"small")
    assert volume.read(volume.collector(), "b") == b"small"


def test_result_that_grows_while_its_type_is_asked_for(bench: MakeBench) -> None:
    """A step that makes its result huge meanwhile costs no memory: the array is referred to whole, not taken apart."""
    volume = bench(types={"a": ResultType.ARRAY}, skeleton_size_limit=16_384, spill_delay=3600.0)
    idle = threading.Barrier(3)  # nobody asks for the type before the collector does
    for _ in range(2):
        volume.workers[0].submit(lambda: (idle.wait(DEADLINE), None)[1])
    idle.wait(DEADLINE)
    content = json.dumps(["x" * 9000]).encode()
    volume.write("a", content)
    answer = volume.host.result_types

    def grows() -> Any:
        with volume.file("a").open("ab") as file:
            file.truncate(20 << 20)
        return answer()

    volume.host.result_types = grows
    read = json.loads(volume.collect()["a"])
    assert len(volume.content(read[0].removesuffix("[*]"))) == 20 << 20
    with volume.file("a").open("rb") as file:
        source = volume.volume.file_source(os.dup(file.fileno()))
        assert len(source.head(5000)) == 5000
        source.close()
