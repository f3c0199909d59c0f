"""The store in memory, and by extras in Google Cloud Storage and Azure, through fsspec's own methods.

What fsspec promises differs by filesystem. gcsfs finishes an object at `commit` of a file opened with
`autocommit=False`; adlfs, which ignores that, when the file is closed; until then neither shows anything. The memory filesystem shows the file from its opening on, so there the parts are collected first
(they are in memory in any case); and its readers share one position, so that requests take turns.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from resultsfs.retry import Stop
from resultsfs.settings import Settings
from resultsfs.store_backend import Entry, Part, Taken, Upload, unheard

_MAX_PARTS = 10_000
_memory_lock = threading.RLock()


def make(url: str, settings: Settings) -> FsspecBackend:
    """The backend of a memory://, gs:// or abfs:// URL."""
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if urlsplit(url).scheme in ("gs", "gcs"):
        options["requests_timeout"] = settings.store_timeout
    fs, root = fsspec.core.url_to_fs(url, **options)
    in_memory = urlsplit(url).scheme == "memory"
    lock = _memory_lock if in_memory else contextlib.nullcontext()
    return FsspecBackend(fs, root.rstrip("/"), settings.store_part_size, lock, in_memory)


class FsspecBackend:
    """Objects of one fsspec filesystem below `root`."""

    def __init__(self, fs: Any, root: str, part_size: int, turn: Any, in_memory: bool) -> None:
        self._fs = fs
        self._root = root
        self._part_size = part_size
        self._turn = turn
        self._in_memory = in_memory
        self.parallel = in_memory

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def put(self, path: str, data: bytes, stop: Stop, taken: Taken = unheard) -> None:
        """One request."""
        with self._turn:
            self._fs.pipe_file(self._place(path), data)

    def upload(self, path: str, size: int, stop: Stop) -> Upload:
        """A file that appears when it is committed."""
        part_size = max(self._part_size, math.ceil(size / _MAX_PARTS))
        if self._in_memory:
            return _Collected(self, path, part_size)
        return _Committed(self._fs.open(self._place(path), "wb", block_size=part_size, autocommit=False), part_size)

    def size(self, path: str, stop: Stop) -> int:
        """Size of an object."""
        with self._turn:
            info = self._fs.info(self._place(path))
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return int(info["size"])

    def read(self, path: str, start: int, into: memoryview, stop: Stop) -> int:
        """The bytes of a range."""
        with self._turn:
            data = self._fs.cat_file(self._place(path), start=start, end=start + len(into))
        into[: len(data)] = data
        return len(data)

    def modified(self, path: str) -> datetime | None:
        """The object's time."""
        with self._turn:
            time: datetime = self._fs.modified(self._place(path))
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    def sign(self, path: str, seconds: int) -> str | None:
        """By the filesystem's credentials, if they can sign."""
        try:
            with self._turn:
                return str(self._fs.sign(self._place(path), expiration=seconds))
        except NotImplementedError:
            return None

    def list(self, path: str) -> Iterator[Entry]:
        """The names directly below `path`."""
        place = self._place(path)
        try:
            with self._turn:
                found = list(self._fs.ls(place, detail=True))
        except FileNotFoundError:
            return
        for info in found:
            name = str(info["name"]).rstrip("/")
            if name != place.rstrip("/"):  # some list a marker of the directory itself
                yield Entry(name.rpartition("/")[2], int(info["size"]) if info["type"] == "file" else None)

    def delete(self, path: str) -> None:
        """Remove one object."""
        with self._turn, contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._place(path))

    def delete_tree(self, path: str) -> None:
        """Remove what is below `path`."""
        with self._turn, contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._place(path), recursive=True)

    def abort_stale(self, age: float) -> int:
        """None: Google forgets unfinished uploads after a week, Azure uncommitted blocks too."""
        return 0

    def close(self) -> None:
        """fsspec closes the filesystem's session when it is collected."""


class _Committed:
    """Parts written one after the other to a file that waits for its commit."""

    def __init__(self, file: Any, part_size: int) -> None:
        self.part_size = part_size
        self._file = file

    def write(self, number: int, data: Part, stop: Stop, taken: Taken = unheard) -> None:
        """Write the next part; fsspec tells of no smaller pieces."""
        self._file.write(data)
        taken(len(data))

    def complete(self, stop: Stop) -> None:
        """Commit."""
        self._file.close()
        self._file.commit()

    def abort(self) -> None:
        """Discard. Not to be closed afterwards, by the garbage collector neither: adlfs would finish the half."""
        try:
            self._file.discard()
        finally:
            self._file.closed = True


class _Collected:
    """Parts collected in memory."""

    def __init__(self, backend: FsspecBackend, path: str, part_size: int) -> None:
        self.part_size = part_size
        self._backend = backend
        self._path = path
        self._parts: dict[int, bytes] = {}

    def write(self, number: int, data: Part, stop: Stop, taken: Taken = unheard) -> None:
        """Keep a part."""
        self._parts[number] = bytes(data)

    def complete(self, stop: Stop) -> None:
        """Show the whole."""
        self._backend.put(self._path, b"".join(self._parts[number] for number in sorted(self._parts)), stop)

    def abort(self) -> None:
        """Forget the parts."""
        self._parts.clear()
