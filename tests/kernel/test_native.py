"""What only the native session does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from resultsfs import mountpoint
from resultsfs.collector import nobody
from resultsfs.kernel.files import FileRequests
from resultsfs.kernel.loop import Loop
from resultsfs.kernel.request import caller
from resultsfs.kernel.serve import Service
from resultsfs.kernel.session import Session
from resultsfs.settings import Settings
from tests.support.mount import Mount, mounted, record

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root"),
]
BIG = os.urandom(300_000)
STUCK = {"store": "s3://bucket", "s3-endpoint": "http://127.0.0.1:9", "spill-deadline": "1h", "store-timeout": "1s"}
STAT = "import os, json; print(json.dumps([os.stat('report').st_size, len(open('report', 'rb').read())]))"


@pytest.fixture
def mount() -> Iterator[Mount]:
    """A served volume."""
    with mounted(transport="native") as found:
        yield found


@contextmanager
def collecting(mount: Mount, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A collector, gone afterwards."""
    with mount.collector(script) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_collector_sees_the_size_of_what_it_reads(mount: Mount) -> None:
    """stat and content agree for a collector (87 bytes) and for everybody else (the file), whoever came last."""
    (mount.path / "report").write_bytes(BIG)
    for _ in range(5):
        with collecting(mount, STAT) as collector:
            assert collector.stdout is not None
            size, length = json.loads(collector.stdout.read() or b"[0, 0]") or (0, 0)
        if length:
            assert (size, length) == (87, 87)
        assert (mount.path / "report").stat().st_size == len(BIG)
        assert (mount.path / "report").read_bytes() == BIG


def test_views_do_not_mix(mount: Mount) -> None:
    """While collectors come and go, readers and a shared mapping of the same file see nothing but its content."""
    (mount.path / "report").write_bytes(BIG)
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if (mount.path / "report").read_bytes() != BIG:
                wrong.append("content")
            if os.stat(mount.path / "report").st_size != len(BIG):
                wrong.append("size")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        seen = set()
        for _ in range(20):
            with collecting(mount, "print(len(open('report', 'rb').read()))") as collector:
                assert collector.stdout is not None
                seen.add(collector.stdout.read().strip())
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert seen <= {b"87", b""}, seen  # later ones may find nothing new
    assert b"87" in seen
    assert wrong == []


def test_a_collector_may_write_the_result(mount: Mount) -> None:
    """A process that counts as collector changes the file itself, not its view of it."""
    (mount.path / "report").write_bytes(b"before")
    script = "import os; os.stat('report'); open('report', 'w').write('after'); os.chmod('report', 0o600)"
    with collecting(mount, script) as collector:
        assert collector.stderr is not None
        assert collector.stderr.read() == b""
        assert collector.wait(100) == 0
    assert (mount.path / "report").read_bytes() == b"after"
    assert (mount.path / "report").stat().st_mode & 0o777 == 0o600


def test_entries_are_forgotten(mount: Mount) -> None:
    """When the kernel drops what it remembers, so does the daemon: its memory stops growing."""

    def resident() -> int:
        text = Path(f"/proc/{mount.server}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", text)
        assert found is not None
        return int(found[1])

    def fill(turn: int) -> None:
        (mount.path / f"d{turn}").mkdir()
        for number in range(5_000):
            os.mknod(mount.path / f"d{turn}" / str(number))
        assert len(os.listdir(mount.path / f"d{turn}")) == 5_000
        for number in range(5_000):
            os.unlink(mount.path / f"d{turn}" / str(number))
        (mount.path / f"d{turn}").rmdir()

    fill(0)
    after_one = resident()
    for turn in range(1, 4):
        fill(turn)
    assert resident() < after_one + 5_000  # KiB; unforgotten, 15,000 files would take about that again


def test_one_loop_serves_many_mounts(tmp_path: Path) -> None:
    """Twenty mounts of one process answer side by side; one that is taken off leaves the others alone."""
    loop = Loop()
    with _many(loop, tmp_path, 20) as points:
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            # not from this process: the loop must never wait for itself
            script = 'for at in "$@"; do echo "$at" > "$at/report" && cat "$at/report" || exit 1; done'
            done = subprocess.run(["/bin/sh", "-c", script, "sh", *points], capture_output=True, check=True, timeout=60)
            assert done.stdout.decode().split() == [str(point) for point in points]
            subprocess.run(["umount", points[0]], check=True)
            done = subprocess.run(
                ["cat", *(f"{point}/report" for point in points[1:])], capture_output=True, check=True
            )
            assert done.stdout.decode().split() == [str(point) for point in points[1:]]
        finally:
            for point in points[1:]:
                subprocess.run(["umount", "-l", point], check=False)
            loop.post(loop.stop)
            thread.join(100)
        assert not thread.is_alive()


@contextmanager
def _many(loop: Loop, directory: Path, count: int) -> Iterator[list[Path]]:
    services, points = [], []
    try:
        for number in range(count):
            point = directory / f"mount-{number}"
            point.mkdir()
            spool = directory / f"spool-{number}"
            service = Service(record(), spool, Settings(store=f"file://{directory}/store"), nobody, caller)
            services.append(service)
            descriptor = mountpoint.attach(str(point), allow_other=True)
            requests = FileRequests(service.filesystem, nobody, ["report"])
            loop.add(Session(descriptor, requests, loop.post, lambda: None))
            points.append(point)
        yield points
    finally:
        for point in points:
            with suppress(OSError):
                mountpoint.detach(str(point))
        for service in services:
            with closing(service):
                continue


def test_nothing_is_posted_to_a_loop_that_has_ended() -> None:
    """A thread that is done after its loop has ended writes to no descriptor, which may be another file's by now."""
    loop = Loop()
    loop.run()
    with open(os.devnull, "wb"):
        loop.post(lambda: pytest.fail("it ran"))


def test_times_of_names_that_are_no_results(mount: Mount) -> None:
    """The kernel answers a stat of a known file itself: it does not reach the daemon, stopped meanwhile."""
    (mount.path / "known").write_bytes(b"12345")
    os.stat(mount.path / "known")
    os.kill(mount.server, 19)
    try:
        begun = time.monotonic()
        found = subprocess.run(["stat", "-c", "%s", mount.path / "known"], capture_output=True, timeout=100, check=True)
        assert found.stdout == b"5\n"
        assert time.monotonic() - begun < 100
    finally:
        os.kill(mount.server, 18)


def test_listings_do_not_keep_descriptors(mount: Mount) -> None:
    """Of many directories that are half read the server keeps few open, and each is read to its end all the same."""
    entries = {f"{number:03}".ljust(250, "x") for number in range(150)}  # more than one request brings
    for turn in range(100):
        (mount.path / f"d{turn}").mkdir()
        for name in entries:
            os.mknod(mount.spool / "files" / f"d{turn}" / name)
    with ExitStack() as opened:
        listings = [opened.enter_context(os.scandir(mount.path / f"d{turn}")) for turn in range(100)]
        found = [{next(listing).name} for listing in listings]
        links = [os.readlink(link) for link in Path(f"/proc/{mount.server}/fd").iterdir() if link.is_symlink()]
        assert sum(re.search(r"files/d\d+$", link) is not None for link in links) <= 64
        for listing, names in zip(listings, found, strict=True):
            names.update(entry.name for entry in listing)
            assert names == entries
