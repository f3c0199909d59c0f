"""The store in a directory (`file://`): also a volume shared by several nodes.

Not through fsspec's LocalFileSystem: its transactions write to the system's temporary directory and then copy, so a
half copied file can have the final name; it does not fsync; and what it makes is readable by everybody. Here a file
is written beside its place under another name, synced, renamed, and its directory synced. Files are 0600,
directories 0700.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from resultsfs.retry import Stop
from resultsfs.settings import Settings
from resultsfs.store_backend import Entry, Part, Taken, unheard
from resultsfs.store_errors import NoPlace
from resultsfs.store_names import UNFINISHED

_PIECE = 1 << 20  # bytes of one write: how finely progress is told
_NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EACCES, errno.EPERM}


def make(url: str, settings: Settings) -> FileBackend:
    """The backend of `file:///directory`; the directory is made at the first write."""
    return FileBackend(urlsplit(url).path, settings.store_part_size)


class FileBackend:
    """Objects as files below `root`."""

    parallel = True

    def __init__(self, root: str, part_size: int) -> None:
        self._root = root
        self._part_size = part_size

    def _place(self, path: str) -> str:
        return os.path.join(self._root, path) if path else self._root

    def put(self, path: str, data: bytes, stop: Stop, taken: Taken = unheard) -> None:
        """Write, sync, rename."""
        upload = self.upload(path, len(data), stop)
        try:
            upload.write(0, data, stop, taken)
            upload.complete(stop)
        except BaseException:
            upload.abort()
            raise

    def upload(self, path: str, size: int, stop: Stop) -> FileUpload:
        """A new file under a name of its own."""
        _make_directory(self._place(UNFINISHED))
        _make_directory(os.path.dirname(self._place(path)))
        return FileUpload(self._place(UNFINISHED), self._place(path), self._part_size)

    def size(self, path: str, stop: Stop) -> int:
        """Size of the regular file; a link or a device is never followed or opened."""
        with _opened(self._place(path)) as fd:
            return os.fstat(fd).st_size

    def read(self, path: str, start: int, into: memoryview, stop: Stop) -> int:
        """The bytes of a range."""
        with _opened(self._place(path)) as fd:
            filled = 0
            while filled < len(into) and (count := os.preadv(fd, [into[filled:]], start + filled)):
                filled += count
            return filled

    def modified(self, path: str) -> datetime | None:
        """The file's time: the server's clock on a network filesystem."""
        return datetime.fromtimestamp(os.stat(self._place(path)).st_mtime, UTC)

    def sign(self, path: str, seconds: int) -> str | None:
        """None: a file has no URL that others could read."""
        return None

    def list(self, path: str) -> Iterator[Entry]:
        """Regular files and directories; nothing else is ours."""
        try:
            with os.scandir(self._place(path)) as found:
                entries = list(found)
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield Entry(entry.name, None)
            elif entry.is_file(follow_symlinks=False):
                try:
                    yield Entry(entry.name, entry.stat(follow_symlinks=False).st_size)
                except FileNotFoundError:  # deleted since
                    continue

    def delete(self, path: str) -> None:
        """Unlink."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._place(path))

    def delete_tree(self, path: str) -> None:
        """Remove a directory with what is in it."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._place(path))

    def abort_stale(self, age: float) -> int:
        """Remove unfinished files that nobody has written to for `age` seconds."""
        count = 0
        found = list(self.list(UNFINISHED))
        oldest = self._clock() - age if found else 0.0
        for entry in found:
            name = self._place(f"{UNFINISHED}/{entry.name}")
            with contextlib.suppress(FileNotFoundError):
                if entry.size is not None and os.stat(name, follow_symlinks=False).st_mtime <= oldest:
                    os.unlink(name)
                    count += 1
        return count

    def _clock(self) -> float:
        """Now by the clock that dates the files: a network filesystem's is its server's."""
        name = self._place(f"{UNFINISHED}/{uuid.uuid4()}")
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            return os.stat(name).st_mtime
        finally:
            os.unlink(name)

    def close(self) -> None:
        """Nothing is held open."""


class FileUpload:
    """A file that gets its final name when it is whole and on the disk."""

    def __init__(self, directory: str, target: str, part_size: int) -> None:
        self.part_size = part_size
        self._target = target
        self._renamed = False
        self._name = os.path.join(directory, str(uuid.uuid4()))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _refused(directory, "written"):
            self._fd = os.open(self._name, flags, 0o600)

    def write(self, number: int, data: Part, stop: Stop, taken: Taken = unheard) -> None:
        """Write a part at its offset."""
        offset = number * self.part_size
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view[:_PIECE], offset)
            view, offset = view[written:], offset + written
            taken(len(data) - len(view))

    def complete(self, stop: Stop) -> None:
        """Sync, rename, sync the directory."""
        if self._fd >= 0:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
        _make_directory(os.path.dirname(self._target))  # may have been deleted with its run meanwhile
        if not self._renamed:
            with _refused(os.path.dirname(self._target), "written"):
                os.rename(self._name, self._target)
            self._renamed = True
        _sync_directory(os.path.dirname(self._target))

    def abort(self) -> None:
        """Remove the unfinished file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name)


@contextlib.contextmanager
def _opened(name: str) -> Iterator[int]:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError(name)
        yield fd
    finally:
        os.close(fd)


def _make_directory(name: str) -> None:
    """Make a directory and its parents (0700), each synced into its own parent."""
    if os.path.isdir(name):
        return
    parent = os.path.dirname(name)
    _make_directory(parent)
    with _refused(name, "made"), contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700)
    _sync_directory(parent)


@contextlib.contextmanager
def _refused(directory: str, verb: str) -> Iterator[None]:
    """Raise NoPlace where a place to write to cannot be had: ENOENT would read like missing content."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise NoPlace(f"store directory {directory} cannot be {verb}: {os.strerror(error.errno)}") from error


def _sync_directory(name: str) -> None:
    with _refused(name, "written"):
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
