"""What goes wrong around a mount: clients get errors and die when killed, nothing hangs, and memory comes back."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from resultsfs.kernel import passthrough
from resultsfs.reference import Reference
from tests.support.mount import Mount, mounted, mountpoints
from tests.support.takeover import WAYS
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]
STUCK = {"store": "s3://bucket", "s3-endpoint": "http://127.0.0.1:9", "spill-deadline": "1h", "store-timeout": "1s"}
BIG = os.urandom(300_000)
DIED = (errno.ECONNABORTED, errno.ENOTCONN)


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way of all mounts of a test."""
    for name, value in WAYS[request.param].items():
        monkeypatch.setenv(name, value)
    return str(request.param)


@pytest.fixture
def mount(way: str) -> Iterator[Mount]:
    """A served volume, its content by each of the ways."""
    with mounted(transport="native") as found:
        yield found


def _waits(pid: int) -> bool:
    """Whether a process waits for an answer to a request."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return "fuse" in Path(f"/proc/{pid}/stack").read_text()
    return False


@contextmanager
def client(mount: Mount, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process in the mount, no collector, which says `x` when it begins; killed afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=mount.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"x\n"
            yield process
        finally:
            process.kill()


PREPARED = "import os, sys; directory = os.open('.', os.O_RDONLY); print('x', flush=True); sys.stdin.readline(); "


def _go(waiter: subprocess.Popen[bytes]) -> None:
    """Let a client that is `PREPARED` go on, until it waits."""
    assert waiter.stdin is not None
    waiter.stdin.write(b"\n")
    waiter.stdin.flush()
    eventually(lambda: _waits(waiter.pid))


# -- the mount goes -----------------------------------------------------------------------------------------------


def test_unmounted_while_busy(mount: Mount) -> None:
    """A busy mount is not taken off but detached: its open file and its mapping work on, and its daemon ends with them."""
    process = mount.process
    assert process is not None
    with open(mount.path / "f", "w+b", buffering=0) as file:
        assert subprocess.run(["umount", mount.path], check=False, capture_output=True).returncode != 0
        subprocess.run(["umount", "-l", mount.path], check=True)
        assert str(mount.path) not in mountpoints()
        file.write(b"still here")
        assert os.pread(file.fileno(), 100, 0) == b"still here"
        assert process.poll() is None
    assert process.wait(100) == 0
    assert (mount.spool / "files" / "f").read_bytes() == b"still here"


@contextmanager
def control(directory: Path) -> Iterator[Path]:
    """The control filesystem of FUSE."""
    directory.mkdir()
    if subprocess.run(["mount", "-t", "fusectl", "none", directory], check=False, capture_output=True).returncode:
        pytest.skip("the fuse control filesystem cannot be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def test_aborted_through_the_control_filesystem(mount: Mount, tmp_path: Path) -> None:
    """An abort ends all waits and further calls with an error, the daemon in good order, and the mount can go."""
    process = mount.process
    assert process is not None
    device = os.minor(os.stat(mount.path).st_dev)
    waiting = PREPARED + "\ntry: os.mkdir('d')\nexcept OSError as error: print(error.errno)"
    with open(mount.path / "f", "w+b", buffering=0) as file, control(tmp_path / "control") as directory:
        file.write(b"x")
        server = mount.server
        with client(mount, waiting) as waiter:
            os.kill(server, signal.SIGSTOP)
            try:
                _go(waiter)
                (directory / str(device) / "abort").write_text("1")
                assert waiter.stdout is not None
                assert int(waiter.stdout.readline()) in DIED
            finally:
                os.kill(server, signal.SIGCONT)
        with pytest.raises(OSError) as caught:
            (mount.path / "g").write_bytes(b"x")
        assert caught.value.errno in DIED
        with suppress(OSError):  # what had not been written back is lost, and told
            file.close()
    subprocess.run(["umount", mount.path], check=False, capture_output=True)  # the daemon may have been first
    assert process.wait(100) == 0
    assert str(mount.path) not in mountpoints()
    assert os.listdir(mount.path) == []


def test_spool_removed_underneath(mount: Mount) -> None:
    """Who removes the spool takes the files away, not the daemon: errors are clean, and the mount can be taken off."""
    process = mount.process
    assert process is not None
    (mount.path / "d").mkdir()
    (mount.path / "d" / "kept").write_bytes(b"x")
    with open(mount.path / "open", "w+b", buffering=0) as file:
        file.write(b"open")
        shutil.rmtree(mount.spool)
        for attempt in (
            lambda: (mount.path / "d" / "kept").read_bytes(),
            lambda: (mount.path / "d" / "new").write_bytes(b"x"),
            lambda: (mount.path / "new").write_bytes(b"x"),
            lambda: (mount.path / "made").mkdir(),
            lambda: (mount.path / "open").rename(mount.path / "other"),
            lambda: (mount.path / ".ref" / ("A" * 22 + "." + "A" * 43)).read_bytes(),
        ):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno in (errno.ENOENT, errno.ESTALE, errno.EIO), attempt
        with suppress(FileNotFoundError):  # a read that the daemon serves; in passthrough the content is still there
            assert os.pread(file.fileno(), 10, 0) == b"open"
        assert mount.collect("report").returncode != 0
        assert process.poll() is None
    subprocess.run(["umount", mount.path], check=True)
    assert process.wait(100) == 0


# -- clients are killed -------------------------------------------------------------------------------------------

WAITING = {
    "open": "open('f')",
    "create": "open('new', 'w')",
    "stat of a result": "os.stat('report')",
    "listing": "os.listdir('.')",
    "making a directory": "os.mkdir('d')",
    "renaming": "os.rename('f', 'g')",
    "removing": "os.unlink('f')",
    "truncating": "os.truncate('f', 1)",
    "fsync of a directory": "os.fsync(directory)",
    "reading by reference": "open('.ref/' + 'A' * 22 + '.' + 'A' * 43)",
}


@pytest.mark.parametrize("call", WAITING.values(), ids=list(WAITING))
def test_killed_while_the_server_stands_still(call: str) -> None:
    """A client that waits for a server which answers nobody dies on SIGKILL at once, whatever it waits for."""
    with mounted(transport="native") as mount:
        (mount.path / "f").write_bytes(b"content")
        server = mount.server
        with client(mount, PREPARED + call) as waiter:
            os.kill(server, signal.SIGSTOP)
            try:
                _go(waiter)
                waiter.kill()
                assert waiter.wait(100) == -signal.SIGKILL
            finally:
                os.kill(server, signal.SIGCONT)
        assert (mount.path / "report").exists() is False  # it serves on


STUCK_WAITS = {
    "open": "open('report', 'rb').read()",
    "stat": "os.stat('report')",
    "through a link": "open('link', 'rb').read()",
}


@pytest.mark.parametrize("call", STUCK_WAITS.values(), ids=list(STUCK_WAITS))
def test_a_waiting_collector_can_be_killed(way: str, call: str) -> None:
    """A collector that waits for an upload which is stuck dies on SIGKILL, in every kind of wait, and others go on."""
    assert way in WAYS
    with mounted(transport="native", settings=STUCK) as mount:
        (mount.path / "report").write_bytes(BIG)
        (mount.path / "link").symlink_to("report")
        with mount.collector(f"import os; print('x', flush=True); {call}") as collector:
            assert collector.stdout is not None
            assert collector.stdout.readline() == b"x\n"
            eventually(lambda: _waits(collector.pid))
            assert (mount.path / "report").read_bytes() == BIG
            collector.kill()
            assert collector.wait(100) == -signal.SIGKILL
        assert (mount.path / "report").read_bytes() == BIG


def test_a_collector_of_an_open_file_can_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does one that waits for a file which is still being written, whose bytes the kernel holds back."""
    monkeypatch.setenv(passthrough.OFF, "off")
    with mounted(transport="native", settings=STUCK) as mount, open(mount.path / "report", "wb", buffering=0) as file:
        file.write(BIG)
        with mount.collector("print('x', flush=True); open('report', 'rb').read()") as collector:
            assert collector.stdout is not None
            assert collector.stdout.readline() == b"x\n"
            eventually(lambda: _waits(collector.pid))
            collector.kill()
            assert collector.wait(100) == -signal.SIGKILL
        assert (mount.path / "report").read_bytes() == BIG


def test_a_reader_of_a_reference_can_be_killed() -> None:
    """A process that waits for content by reference dies on SIGKILL while the store does not answer."""
    with mounted(transport="native", settings=STUCK) as mount:
        name = ".ref/" + "A" * 22 + "." + "A" * 43
        with client(mount, f"print('x', flush=True); open({name!r}).read()") as reader:
            eventually(lambda: _waits(reader.pid))
            (mount.path / "other").write_bytes(b"goes on")
            reader.kill()
            assert reader.wait(100) == -signal.SIGKILL


def test_a_reader_of_a_reference_can_be_killed_after_another_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does one that had been sent a signal which it handles: the kernel tells the first signal of a wait alone."""
    handler = "import signal; signal.signal(signal.SIGTERM, lambda *_: None)"
    with _silent_store(monkeypatch) as (_, settings), mounted(transport="native", settings=settings) as mount:
        name = ".ref/" + "A" * 22 + "." + "A" * 43
        with client(mount, f"{handler}; print('x', flush=True); open({name!r}).read()") as reader:
            eventually(lambda: _waits(reader.pid))
            reader.terminate()
            eventually(lambda: _state(reader.pid) == "D")  # no signal but SIGKILL ends the wait from here on
            reader.kill()
            assert reader.wait(100) == -signal.SIGKILL


def test_readers_that_were_killed_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many were killed while a store did not answer, the next reader's question reaches the store; and what is
    no reference's name is answered beside those that wait."""
    threads = 16
    with _silent_store(monkeypatch) as (store, settings), mounted(transport="native", settings=settings) as mount:
        with ExitStack() as readers:
            for number in range(threads + 2):
                reference = str(Reference.of(UUID(int=0), f"{number:064x}")).rpartition("/")[2]
                script = f"import os; print('x', flush=True); os.stat('.ref/{reference}')"
                reader = readers.enter_context(client(mount, script))
                eventually(partial(_waits, reader.pid))
            assert not (mount.path / ".ref" / "nonsense").exists()
        last = str(Reference.of(UUID(int=0), "f" * 64)).rpartition("/")[2]
        with client(mount, f"import os; print('x', flush=True); os.stat('.ref/{last}')"):
            store.settimeout(100)
            asked = b""
            connections = []
            while b"f" * 64 not in asked:
                connections.append(store.accept()[0])
                asked = connections[-1].recv(1 << 16)
            for connection in connections:
                connection.close()


@contextmanager
def _silent_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A store that takes connections and answers nothing: its socket, and the settings for it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        yield silent, {**STUCK, "s3-endpoint": endpoint, "store-timeout": "1h"}


def _state(pid: int) -> str:
    """What a process does, by the letter of proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("mode", ["r", "w"])
def test_whoever_waits_at_a_fifo_can_be_killed(mount: Mount, mode: str) -> None:
    """The reader of a FIFO without a writer, and the writer without a reader, wait in the kernel and die there."""
    os.mkfifo(mount.path / "fifo")
    with client(mount, f"print('x', flush=True); open('fifo', {mode!r})") as waiter:
        eventually(lambda: "fifo_open" in Path(f"/proc/{waiter.pid}/stack").read_text())
        waiter.kill()
        assert waiter.wait(100) == -signal.SIGKILL
    (mount.path / "fifo").unlink()


# -- much of everything -------------------------------------------------------------------------------------------

OPEN, ENTRIES = 5_000, 100_000


def _resident(mount: Mount) -> int:
    """KiB of memory that the server has."""
    lines = Path(f"/proc/{mount.server}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _open_and_close(mount: Mount) -> None:
    descriptors: list[int] = []
    try:
        for number in range(OPEN):
            descriptors.append(os.open(mount.path / str(number), os.O_CREAT | os.O_RDWR))
            os.write(descriptors[-1], b"%d" % number)
        for number in range(0, OPEN, 7):
            assert os.pread(descriptors[number], 100, 0) == b"%d" % number
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    for number in range(OPEN):
        os.unlink(mount.path / str(number))


def test_memory_of_5000_open_files_comes_back(mount: Mount) -> None:
    """5,000 files are open at once; a second and third time take no more memory than the first left taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN + 200:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN + 200, hard))
    try:
        _open_and_close(mount)
        first = _resident(mount)
        for _ in range(2):
            _open_and_close(mount)
        assert _resident(mount) < first * 1.2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _make_entries(directory: Path) -> None:
    directory.mkdir()
    for number in range(ENTRIES):
        os.mknod(directory / f"entry-{number:06}")
    with os.scandir(directory) as entries:
        assert sum(entry.is_file(follow_symlinks=False) for entry in entries) == ENTRIES


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_of_100000_entries_comes_back() -> None:
    """When the kernel drops what it knows of 100,000 entries, the server gives half of the memory back that they took,
    at least, and uses the rest again: as many more take no more than the first."""
    with mounted(transport="native", settings={"volume-file-limit": 3 * ENTRIES}) as mount:
        before = _resident(mount)
        _make_entries(mount.path / "first")
        full = _resident(mount)
        try:
            Path("/proc/sys/vm/drop_caches").write_text("2")
        except OSError as error:
            pytest.skip(f"the kernel's caches cannot be dropped here: {error.strerror}")
        eventually(lambda: _resident(mount) < before + (full - before) / 2, 120)
        _make_entries(mount.path / "second")
        assert _resident(mount) < full * 1.1
        assert len(os.listdir(mount.path / "first")) == ENTRIES
