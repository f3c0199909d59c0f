"""Ways of one content into the S3 server and back: through a mount, or sent directly by s3fs."""

from __future__ import annotations

import asyncio
import base64
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from benchmarks.contenders import Resultsfs
from benchmarks.peers import Peer
from benchmarks.scale import MIB
from resultsfs.reference import Reference
from tests.support.rclone import S3Server

PUT_FILE, PIPE = "s3fs put_file", "s3fs pipe_file"
_DEADLINE = 600.0
_PAUSE = 0.0005
_FILLER = base64.b64encode(os.urandom(MIB))[:MIB]


def content(size: int) -> Iterator[bytes]:
    """New text of that size, in pieces. Text, because bytes that are not UTF-8 cost six in a termination message."""
    head = (uuid.uuid4().hex * 4).encode("ascii")[:size]
    yield head
    left = size - len(head)
    while left:
        piece = _FILLER[:left]
        yield piece
        left -= len(piece)


def write_content(path: Path, size: int) -> int:
    """Fill a file with new content; its descriptor, still open."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for piece in content(size):
            while piece:
                piece = piece[os.write(descriptor, piece) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class Route(Protocol):
    """A way into the store."""

    @property
    def name(self) -> str:
        """The column."""
        ...

    @property
    def pids(self) -> Sequence[int]:
        """The daemon's processes; none where this process sends."""
        ...

    def store(self, size: int) -> float:
        """Make new content; seconds from its file's close (or the call that sends it) until it is durable."""
        ...


class Collected:
    """A result of ours: written, closed, opened by a collector, who gets the reference when it is durable."""

    def __init__(self, volume: Resultsfs) -> None:
        self.name = volume.name
        self.volume = volume

    @property
    def pids(self) -> Sequence[int]:
        """The daemon."""
        return self.volume.pids

    def store(self, size: int) -> float:
        """Write the result, and collect it as Tekton's entrypoint would."""
        return self.collect(size)[0]

    def collect(self, size: int) -> tuple[float, bytes]:
        """Seconds from close until the collector has read the result, and what it read. Raises OSError."""
        path = self.volume.path / "report"
        with suppress(FileNotFoundError):
            path.unlink()
        descriptor = write_content(path, size)
        began = time.perf_counter()
        os.close(descriptor)
        done = self.volume.mount.collect("report", timeout=_DEADLINE)
        taken = time.perf_counter() - began
        if done.returncode != 0:
            raise OSError(f"the collector failed: {done.stderr.decode()}")
        return taken, done.stdout

    def spill(self, size: int) -> Reference:
        """Write and collect a result that is too large for status; its reference. Raises OSError when it is not."""
        _, published = self.collect(size)
        reference = Reference.match(published.decode("ascii", "replace"))
        if reference is None:
            raise OSError(f"the collector read no reference but {len(published)} bytes")
        return reference


class Uploaded:
    """A peer's mount: a file is written and closed; durable is when its object is whole in the server's directory."""

    def __init__(self, peer: Peer) -> None:
        self.name = peer.name
        self._peer = peer

    @property
    def pids(self) -> Sequence[int]:
        """The peer's process."""
        return self._peer.pids

    def store(self, size: int) -> float:
        """Write a new file and watch the server's directory."""
        name = uuid.uuid4().hex
        descriptor = write_content(self._peer.path / name, size)
        stored = self._peer.stored(name)
        began = time.perf_counter()
        os.close(descriptor)
        while not (stored.exists() and stored.stat().st_size == size):
            if time.perf_counter() - began > _DEADLINE:
                raise TimeoutError(f"{self.name} has not stored a file of {size} bytes within {_DEADLINE:.0f} s")
            time.sleep(_PAUSE)
        return time.perf_counter() - began


class Direct:
    """s3fs in this process, without any mount: from a file on the disk (`put_file`) or from memory (`pipe_file`).

    Its client is warm and computes no checksums beyond what S3 requires.
    """

    pids: Sequence[int] = ()

    def __init__(self, name: str, filesystem: Any, bucket: str, directory: Path) -> None:
        self.name = name
        self._fs = filesystem
        self._bucket = bucket
        self._file = directory / "direct"

    def _send(self, size: int) -> tuple[float, str]:
        key = f"{self._bucket}/{uuid.uuid4().hex}"
        if self.name == PIPE:
            data = b"".join(content(size))
            began = time.perf_counter()
            self._fs.pipe_file(key, data)
            return time.perf_counter() - began, key
        os.close(write_content(self._file, size))
        began = time.perf_counter()
        self._fs.put_file(str(self._file), key)
        return time.perf_counter() - began, key

    def store(self, size: int) -> float:
        """Send new content."""
        return self._send(size)[0]

    def fetch(self, size: int) -> float:
        """Send new content; seconds to get it back, into a file (`put_file`'s counterpart) or into memory."""
        _, key = self._send(size)
        began = time.perf_counter()
        if self.name == PIPE:
            self._fs.cat_file(key)
        else:
            self._fs.get_file(key, str(self._file))
        return time.perf_counter() - began


@contextmanager
def direct(server: S3Server, directory: Path) -> Iterator[list[Direct]]:
    """Both direct ways, over one client that has been used once."""
    import s3fs

    filesystem = s3fs.S3FileSystem(
        endpoint_url=server.endpoint,
        client_kwargs={"region_name": "us-east-1"},
        config_kwargs={
            "s3": {"addressing_style": "path"},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    bucket = server.bucket()
    ways = [Direct(name, filesystem, bucket, directory) for name in (PUT_FILE, PIPE)]
    try:
        for way in ways:
            way.store(1)
        yield ways
    finally:
        client, filesystem._s3 = filesystem._s3, None
        if client is not None:
            asyncio.run_coroutine_threadsafe(client.close(), filesystem.loop).result(60)
