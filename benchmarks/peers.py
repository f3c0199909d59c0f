"""Other ways to have a bucket as a directory: `rclone mount` and s3fs-fuse, where they are installed."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resultsfs import mountinfo
from tests.support import rclone
from tests.support.rclone import S3Server

_START, _STOP = 60.0, 30.0  # seconds


class Missing(Exception):
    """A peer is not installed, or does not start here; the message says which and why."""


def first_file(path: Path, began: float) -> float:
    """Make a file, and remove it; seconds from `began` until it was made."""
    os.close(os.open(path / "first", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))
    taken = time.perf_counter() - began
    os.unlink(path / "first")
    return taken


@dataclass(frozen=True, slots=True)
class _Places:
    """What a peer works with: bucket and its server, mount point, a directory of its own on the disk."""

    server: S3Server
    bucket: str
    path: Path
    home: Path
    prompt: bool


def _rclone_mount(places: _Places) -> tuple[list[str], dict[str, str]]:
    if shutil.which("fusermount3") is None and shutil.which("fusermount") is None:
        raise Missing("fusermount3 is not installed (package fuse3)")
    command = [rclone.required(), "mount", f":s3:{places.bucket}", str(places.path), "--config", os.devnull]
    command += ["--vfs-cache-mode", "full", "--cache-dir", str(places.home / "cache")]
    command += ["--log-file", str(places.home / "log")]
    if places.prompt:
        command += ["--vfs-write-back", "0s"]
    environment = {
        "RCLONE_S3_PROVIDER": "Rclone",
        "RCLONE_S3_ENDPOINT": places.server.endpoint,
        "RCLONE_S3_ACCESS_KEY_ID": rclone.ACCESS_KEY,
        "RCLONE_S3_SECRET_ACCESS_KEY": rclone.SECRET_KEY,
    }
    return command, environment


def _s3fs_fuse(places: _Places) -> tuple[list[str], dict[str, str]]:
    program = shutil.which("s3fs")
    if program is None:
        raise Missing("s3fs is not installed (package s3fs)")
    password = places.home / "password"
    password.touch(mode=0o600)
    password.write_text(f"{rclone.ACCESS_KEY}:{rclone.SECRET_KEY}\n", encoding="ascii")
    scratch = places.home / "scratch"
    scratch.mkdir(exist_ok=True)
    options = f"url={places.server.endpoint},use_path_request_style,passwd_file={password},tmpdir={scratch}"
    return [program, places.bucket, str(places.path), "-f", "-o", options], {}


PEERS: dict[str, Callable[[_Places], tuple[list[str], dict[str, str]]]] = {
    "rclone mount": _rclone_mount,
    "s3fs-fuse": _s3fs_fuse,
}
"""By column, the command that serves a bucket and what its environment needs."""


class Peer:
    """A bucket served as a directory by another program."""

    def __init__(self, name: str, places: _Places) -> None:
        self.name = name
        self.path = places.path
        self._places = places
        self._process: subprocess.Popen[bytes] | None = None
        self._command, more = PEERS[name](places)
        self._environment = {**os.environ, **more}

    @property
    def pids(self) -> Sequence[int]:
        """The program's process."""
        return (self._process.pid,) if self._process is not None else ()

    def beneath(self, name: str) -> Path | None:
        """Not known: each has a cache of its own making."""
        return None

    def start(self) -> None:
        """Start it and wait until its mount is there. Raises Missing with what it said."""
        with open(self._places.home / "output", "wb") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment
            )
        until = time.monotonic() + _START
        with open("/proc/self/mounts", "rb") as table:
            changes = select.poll()
            changes.register(table, select.POLLPRI | select.POLLERR)
            while not self._is_mounted():
                if self._process.poll() is not None or time.monotonic() > until:
                    said = (self._places.home / "output").read_text(encoding="utf-8", errors="replace")
                    self.stop()
                    raise Missing(f"it does not start here: {said.strip() or 'it says nothing'}")
                changes.poll(100)

    def _is_mounted(self) -> bool:
        there = mountinfo.at(str(self.path))
        return there is not None and there.filesystem.startswith("fuse")

    def stop(self) -> None:
        """Take the mount off and end the program."""
        if self._is_mounted():
            program = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount", "-u", "-z"]
            subprocess.run([*program, str(self.path)], check=True)
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start_again(self) -> float:
        """A new process; seconds from its start until a first file has been made."""
        self.stop()
        began = time.perf_counter()
        self.start()
        return first_file(self.path, began)

    def stored(self, name: str) -> Path:
        """Where the server keeps a file's object."""
        return self._places.server.directory / self._places.bucket / name


@contextmanager
def mounted(name: str, server: S3Server, directory: Path, *, prompt: bool) -> Iterator[Peer]:
    """A peer's mount of a new bucket, its caches below `directory`. Raises Missing."""
    with tempfile.TemporaryDirectory(prefix="peer-", dir=directory) as made:
        home = Path(made)
        path = home / "mnt"
        path.mkdir()
        peer = Peer(name, _Places(server, server.bucket(), path, home, prompt))
        try:
            peer.start()
            yield peer
        finally:
            peer.stop()
