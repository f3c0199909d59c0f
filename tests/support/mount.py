"""A volume served by a real daemon process, for all tests that need a mount."""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from resultsfs.namespaces import ended
from resultsfs.record import VolumeRecord

TRANSPORTS = ("fusepy", "native")
"""The ways to the kernel, as `--transport` takes them."""

START, STOP = 100.0, 100.0
"""Deadlines in seconds: only a broken daemon ever reaches them."""

_PR_SET_PDEATHSIG = 1
_UNEXPECTED = ("Traceback", "failed unexpectedly", "a job of ")
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_the_tests() -> None:
    """The daemon unmounts when the test process is gone, however it went."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def record(**fields: Any) -> VolumeRecord:
    """A volume's record with plausible values for what is not given."""
    values: dict[str, Any] = {
        "volume_id": "test",
        "namespace": "tests",
        "taskrun": "a-task",
        "pod_uid": uuid.uuid4(),
        "run_uid": uuid.uuid4(),
        "results": ("report",),
    }
    return VolumeRecord(**(values | fields))


class Mount:
    """A served volume. `path` is the mountpoint, `spool` its spool, `outside` a plain directory on the same disk."""

    def __init__(
        self,
        directory: Path,
        volume: VolumeRecord,
        settings: Mapping[str, object],
        transport: str,
        spool: Path | None,
        collector_parent: int | None,
        collector_exe: Sequence[Path] = (),
    ) -> None:
        self.directory = directory
        self.path = directory / "mnt"
        self.spool = spool if spool is not None else directory / "spool"
        self.outside = directory / "outside"
        self.record = volume
        self.process: subprocess.Popen[bytes] | None = None
        self.unexpected_log_is_fine = False
        self.transport = transport
        self._parent = collector_parent
        self._collectors = collector_exe
        self._settings_file = directory / "settings.yaml"
        self._record_file = directory / "record.json"
        self._log = directory / "daemon.log"
        self.path.mkdir()
        self.outside.mkdir()
        self.outside.chmod(0o777)
        tools = directory / "tekton"
        tools.mkdir()
        self.cat = tools / "cat"
        shutil.copy(shutil.which("cat") or "/bin/cat", self.cat)
        self.python = tools / "python"
        shutil.copy(os.path.realpath(sys.executable), self.python)
        values = {"store": f"file://{directory}/store", "cache-size-limit": "64MiB", **settings}
        self._settings_file.write_text(yaml.safe_dump(values), encoding="utf-8")
        self._record_file.write_text(volume.to_json(), encoding="utf-8")

    # -- the daemon ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon and wait until the mount answers. Raises RuntimeError with the daemon's log."""
        reading, writing = os.pipe()
        if self.transport == "native":
            command = [sys.executable, "-m", "resultsfs.holder.single"]
        else:
            command = [sys.executable, "-m", "resultsfs.kernel.serve", "--transport", self.transport]
        command += ["--ready-fd", str(writing)]
        command += ["--record", str(self._record_file), "--settings", str(self._settings_file)]
        command += ["--spool", str(self.spool), "--mountpoint", str(self.path)]
        if self._parent is not None:
            command += ["--collector-parent", str(self._parent)]
        else:
            for collector in (self.cat, self.python, *self._collectors):
                command += ["--collector-exe", str(collector)]
        if os.geteuid() != 0:
            command.append("--no-allow-other")
        try:
            with open(self._log, "ab") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[writing],
                    preexec_fn=_die_with_the_tests,
                )
        finally:
            os.close(writing)
        with open(reading, "rb", buffering=0) as pipe:
            answered, _, _ = select.select([pipe], [], [], START)
            if not answered or pipe.read(6) != b"ready\n":
                self.kill9()
                raise RuntimeError(f"the daemon did not get ready:\n{self.log()}")

    def kill9(self) -> None:
        """Kill the daemon without warning and take the dead mount away."""
        assert self.process is not None
        self._kill(self.process)
        self.process = None
        self._detach()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        pidfds = [os.pidfd_open(pid) for pid in _family(process)]  # the holder first, so that it starts no other server
        for pidfd in pidfds:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd in pidfds:
            assert ended(pidfd, STOP), "a daemon survived SIGKILL"
            os.close(pidfd)
        process.wait(STOP)

    @property
    def pids(self) -> list[int]:
        """The daemon's processes: of the native transport the holder, then the server."""
        assert self.process is not None
        return _family(self.process)

    @property
    def server(self) -> int:
        """The process that serves. Raises IndexError in the moment in which there is none."""
        return self.pids[1 if self.transport == "native" else 0]

    def replaced(self, server: int) -> bool:
        """Whether another server runs instead of that one, by one look: in between there may be none."""
        pids = self.pids
        return len(pids) == 2 and pids[1] != server

    def stop(self) -> None:
        """End the daemon in good order: SIGTERM; if that does not help, detach the mount and kill it."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            status = process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._detach()
            self._kill(process)
            raise RuntimeError(f"the daemon did not end after SIGTERM:\n{self.log()}") from None
        finally:
            self._detach()
        if status != 0:
            raise RuntimeError(f"the daemon ended with status {status}:\n{self.log()}")

    def restart(self) -> None:
        """End the daemon in good order if it runs, and start another on the same spool."""
        self.stop()
        self.start()

    def _detach(self) -> None:
        if os.path.realpath(self.path) not in mountpoints():
            return
        command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount", "-u", "-z"]
        subprocess.run([*command, str(self.path)], check=True)

    # -- what tests look at -------------------------------------------------------------------------------

    def log(self) -> str:
        """What the daemon has written to its standard error so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def unexpected(self) -> list[str]:
        """The log's lines that no daemon in good order writes."""
        return [line for line in self.log().splitlines() if any(text in line for text in _UNEXPECTED)]

    def events(self) -> list[dict[str, Any]]:
        """The events so far, oldest first."""
        try:
            lines = (self.spool / "events.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def reasons(self) -> set[str]:
        """The reasons of the events so far."""
        return {event["reason"] for event in self.events()}

    def collect(self, *names: str, timeout: float = 60.0) -> subprocess.CompletedProcess[bytes]:
        """Read results as one collector process does, one after the other; a missing one is said on stderr."""
        paths = [str(self.path / name) for name in names]
        return subprocess.run([str(self.cat), *paths], capture_output=True, timeout=timeout, check=False)

    def collector(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A collector process that runs a Python script, with pipes; its working directory is the mount."""
        prefix = sys.base_prefix
        environment = {**os.environ, "PYTHONHOME": prefix, "LD_LIBRARY_PATH": f"{prefix}/lib"}
        pipe = subprocess.PIPE
        command = [str(self.python), "-I", "-c", script, *arguments]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.path, env=environment)


def _family(process: subprocess.Popen[bytes]) -> list[int]:
    pid = process.pid
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())]


def mountpoints() -> set[str]:
    """All mountpoints of this mount namespace."""
    lines = Path("/proc/self/mounts").read_bytes().splitlines()
    return {line.split()[1].decode("unicode_escape") for line in lines}


@contextmanager
def mounted(
    *,
    transport: str = "fusepy",
    settings: Mapping[str, object] | None = None,
    results: Sequence[str] = ("report",),
    spool: Path | None = None,
    collector_parent: int | None = None,
    collector_exe: Sequence[Path] = (),
    **fields: Any,
) -> Iterator[Mount]:
    """A served volume, gone afterwards with daemon, mount and directory, also when the test fails.

    `settings` are as in the ConfigMap, `fields` those of the volume's record. Collectors are the processes
    that run `Mount.cat`, `Mount.python` or one of `collector_exe`, or the children of `collector_parent`. Raises AssertionError if
    the daemon has logged what it did not foresee.
    """
    if not os.path.exists("/dev/fuse"):
        pytest.fail("no /dev/fuse on this machine: modprobe fuse, or give the container the device")
    with tempfile.TemporaryDirectory(prefix="resultsfs-test-") as name:
        directory = Path(name)
        directory.chmod(0o711)  # other users reach the mount; the spool closes itself
        volume = record(results=tuple(results), **fields)
        mount = Mount(directory, volume, settings or {}, transport, spool, collector_parent, collector_exe)
        try:
            mount.start()
            yield mount
        finally:
            mount.stop()
        if not mount.unexpected_log_is_fine:
            assert mount.unexpected() == [], mount.log()


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """The way to the kernel; tests that ask for it run on each."""
    return str(request.param)


@pytest.fixture
def mount(transport: str) -> Iterator[Mount]:
    """A served volume with the default settings and one declared result, `report`."""
    with mounted(transport=transport) as found:
        yield found


@pytest.fixture(scope="session")
def shared_mount(transport: str) -> Iterator[Mount]:
    """One served volume for all tests of a worker that keep to a directory of their own (see `place`)."""
    with mounted(transport=transport) as found:
        yield found


@pytest.fixture(params=["disk", "mount"])
def place(request: pytest.FixtureRequest, shared_mount: Mount) -> Iterator[Path]:
    """A fresh directory (0777), once on the spool's disk and once on a mount: what holds there must hold here."""
    parent = shared_mount.path if request.param == "mount" else shared_mount.outside
    directory = parent / uuid.uuid4().hex
    directory.mkdir()
    directory.chmod(0o777)
    yield directory
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)
