"""What the store needs of a backend, and the choice of one by URL.

Paths are ours (see store_names), relative to the URL's prefix. A backend raises its own library's exceptions;
store_errors tells what they mean. Nothing of a backend's library is imported before the first request.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit

from resultsfs import settings as settings_module
from resultsfs.errors import InvalidSetting
from resultsfs.retry import Stop
from resultsfs.settings import Settings

Part = bytes | memoryview
"""Bytes to be sent; a memoryview is somebody's buffer and is used again when the call has returned."""

Taken = Callable[[int], None]
"""Told, from any thread, how many bytes of a request's data have left our hands so far: taken by the connection, or
written. From the beginning again when the request is sent again."""


def unheard(count: int) -> None:
    """A `Taken` of somebody who does not ask."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a listing: `size` in bytes, None for what has names below it."""

    name: str
    size: int | None


class Upload(Protocol):
    """A large content on its way: invisible until `complete`, gone after `abort`."""

    part_size: int
    """Bytes of every part but the last."""

    def write(self, number: int, data: Part, stop: Stop, taken: Taken = unheard) -> None:
        """Send part `number` (from 0); the backend has acknowledged it when this returns."""

    def complete(self, stop: Stop) -> None:
        """Make the content visible, whole and durable; may be called again after a failure."""

    def abort(self) -> None:
        """Throw away what was sent."""


class Backend(Protocol):
    """A place for objects. Safe to use from several threads."""

    parallel: bool
    """Whether an upload's parts may be written out of order, from several threads, and again after a failure."""

    def put(self, path: str, data: bytes, stop: Stop, taken: Taken = unheard) -> None:
        """Store a small object: durable when it returns, never half visible, replaces what was there."""

    def upload(self, path: str, size: int, stop: Stop) -> Upload:
        """Begin a large object of `size` bytes."""

    def size(self, path: str, stop: Stop) -> int:
        """Bytes of an object; FileNotFoundError without it."""

    def read(self, path: str, start: int, into: memoryview, stop: Stop) -> int:
        """Fill the buffer with the bytes from `start` on; how many: fewer only where the object ends."""

    def modified(self, path: str) -> datetime | None:
        """When the object was stored, by the store's own clock; None when the backend does not tell."""

    def sign(self, path: str, seconds: int) -> str | None:
        """A URL by which anybody can read the object for so long; None where the backend cannot make one."""

    def list(self, path: str) -> Iterator[Entry]:
        """The names directly below `path` ("" for the top), never from a cache; nothing when there is none."""

    def delete(self, path: str) -> None:
        """Remove one object, which may be gone already."""

    def delete_tree(self, path: str) -> None:
        """Remove everything below `path`, which may be gone already."""

    def abort_stale(self, age: float) -> int:
        """Remove unfinished uploads begun more than `age` seconds ago; how many."""

    def close(self) -> None:
        """Release connections; the backend is not used afterwards."""


@dataclass(frozen=True, slots=True)
class _Scheme:
    module: str
    requires: str
    extra: str = ""


_SCHEMES = {
    "file": _Scheme("resultsfs.store_file", "os"),
    "memory": _Scheme("resultsfs.store_fsspec", "fsspec"),
    "s3": _Scheme("resultsfs.store_s3", "s3fs"),
    "gs": _Scheme("resultsfs.store_fsspec", "gcsfs", "gs"),
    "gcs": _Scheme("resultsfs.store_fsspec", "gcsfs", "gs"),
    "abfs": _Scheme("resultsfs.store_fsspec", "adlfs", "abfs"),
    "abfss": _Scheme("resultsfs.store_fsspec", "adlfs", "abfs"),
}


def default_url() -> str:
    """The store of somebody who names none: a directory below the user's data directory (XDG_DATA_HOME)."""
    home = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(home):  # the XDG specification: relative paths are ignored
        home = os.path.expanduser("~/.local/share")
    return f"file://{home}/resultsfs/store"


def check_url(url: str) -> str:
    """The URL without a trailing slash. Raises InvalidSetting that names what is wrong and the way out."""
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        raise InvalidSetting(
            f"store is {url!r}: unknown scheme {parts.scheme!r}: expected one of {', '.join(_SCHEMES)}"
        )
    if importlib.util.find_spec(scheme.requires) is None:
        cure = f"pip install '{scheme.requires}'"
        if scheme.extra:
            cure = f"pip install 'resultsfs[{scheme.extra}]', or build the image with --build-arg STORES={scheme.extra}"
        raise InvalidSetting(f"store is {url!r}: {scheme.requires} is not installed: {cure}")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise InvalidSetting(f"store is {url!r}: expected no ? or # in it")
    if parts.password is not None:
        raise InvalidSetting("store has a password in its URL: give credentials by the environment or a profile")
    path = parts.path.rstrip("/")
    if any(part in ("", ".", "..") for part in path.split("/")[1:]):
        raise InvalidSetting(f"store is {url!r}: expected a path without empty parts, . and ..")
    if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or not path.startswith("/")):
        raise InvalidSetting(f"store is {url!r}: expected file:///directory with an absolute path below the root")
    if parts.scheme not in ("file", "memory") and not parts.netloc:
        raise InvalidSetting(f"store is {url!r}: expected {parts.scheme}://bucket or {parts.scheme}://bucket/prefix")
    return f"{parts.scheme}://{'' if parts.scheme == 'file' else parts.netloc}{path}"


def load(path: str) -> Settings:
    """A service's settings: as `settings.load` takes them, and with a store that is named and can be. Raises
    InvalidSetting that names the path."""
    settings = settings_module.load(path)
    try:
        if not settings.store:
            raise InvalidSetting("store is not set: expected a URL such as s3://bucket/prefix")
        check_url(settings.store)
    except InvalidSetting as error:
        raise InvalidSetting(f"{path}: {error.message}") from None
    return settings


def make(url: str, settings: Settings) -> Backend:
    """The backend of a URL that `check_url` returned; imports its library."""
    module = importlib.import_module(_SCHEMES[urlsplit(url).scheme].module)
    backend: Backend = module.make(url, settings)
    return backend
