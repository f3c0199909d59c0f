"""The spool: one volume's staged files on the node's disk, and their journal.

Layout of a spool directory (mode 0700: what a step makes executable or set-user-id is no one else's to run):

    record.json     the volume's record
    journal.jsonl   what is durable in the store and what was published, one JSON object a line
    events.jsonl    events, where the host asks for them to be kept here
    files/          what steps see as /tekton/results
    hidden/         files that were unlinked while open (libfuse renames them)
    session/        what a server that takes over a mount must know: open files, what collectors were shown
    copies/         private copies of files that would not stop changing; without names

A file's content is safe on this disk as soon as a write returns; the journal only saves work, so a torn last
line is dropped, and where the disk is full a line is left out. It is not fsynced: a reference is handed out only after
the store has the content.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resultsfs.keeping import append_line, replace
from resultsfs.manifest import ManifestEntry
from resultsfs.record import VolumeRecord

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_COPY_STEP = 64 << 20
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells one content of a spool file from another: inode, size in bytes, ctime in nanoseconds.

    Not the mtime: a step can set that back.
    """

    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, descriptor: int) -> FileState:
        """The state of an open file."""
        found = os.fstat(descriptor)
        return cls(found.st_ino, found.st_size, found.st_ctime_ns)


class Spool:
    """One volume's directory on the node's disk. Raises OSError when it cannot be made or opened."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.session = self.directory / "session"
        for name in ("files", "hidden", "copies", "session"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        (self.directory / "files").chmod(0o777)
        self._lock = threading.Lock()
        self.stored: set[str] = set()
        """SHA-256 of what this volume has made durable in the store."""
        self.digests: dict[FileState, str] = {}
        """SHA-256 of files in a state that has been hashed."""
        self.published: dict[str, ManifestEntry] = {}
        """The latest publication of each result that a collector has read to its end."""
        for entry in _entries(self._journal_path):
            self._take(entry)
        with ExitStack() as opened:  # who fails here is asked again and again
            self.files = _opened(opened, self.directory / "files", _DIRECTORY)
            self.hidden = _opened(opened, self.directory / "hidden", _DIRECTORY)
            journal = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._journal = _opened(opened, self._journal_path, journal)
            _drop_torn_line(self._journal)
            opened.pop_all()

    def begin(self) -> None:
        """A new mount begins: nobody has anything open, and no collector has been shown anything. Raises OSError."""
        for name in os.listdir(self.hidden):
            os.unlink(name, dir_fd=self.hidden)
        shutil.rmtree(self.session)
        self.session.mkdir(mode=0o700)

    @property
    def _journal_path(self) -> Path:
        return self.directory / "journal.jsonl"

    def _take(self, entry: dict[str, Any]) -> None:
        if "stored" in entry:
            self.stored.add(entry["stored"])
            if "file" in entry:
                self.digests[FileState(*entry["file"])] = entry["stored"]
        elif "published" in entry:
            published = ManifestEntry.from_dict(entry["published"])
            self.published[published.name] = published

    def _append(self, entry: dict[str, Any]) -> None:
        with self._lock:
            self._take(entry)
            try:
                append_line(self._journal, json.dumps(entry, separators=(",", ":")).encode())
            except OSError as error:  # who reads a result is not to fail for it
                kind = next(iter(entry))
                log.warning("what was %s would be done again after this server: %s", kind, error.strerror)

    def note_stored(self, sha256: str, state: FileState | None = None) -> None:
        """Remember that content is durable in the store, and which file in which state it was."""
        entry: dict[str, Any] = {"stored": sha256}
        if state is not None:
            entry["file"] = [state.inode, state.size, state.changed]
        self._append(entry)

    def note_published(self, entry: ManifestEntry) -> None:
        """Remember that a collector has read this result's publication to its end."""
        self._append({"published": entry.to_dict()})

    def write_record(self, record: VolumeRecord) -> None:
        """Keep the volume's record beside its files. Raises OSError, but where there is one: that then stays."""
        path, text = self.directory / "record.json", record.to_json()
        try:
            kept = path.read_bytes()
        except FileNotFoundError:
            replace(path, text)
            return
        if kept != text.encode():  # kept in the form of another version
            try:
                replace(path, text)
            except OSError as error:
                log.warning("%s stays as an earlier server kept it: %s", path, error.strerror)

    def private_copy(self, descriptor: int) -> int:
        """A nameless copy of an open file, on the same disk; the caller closes it. Raises OSError (ENOSPC…)."""
        copy = os.open(self.directory / "copies", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        try:
            offset = 0
            while copied := os.copy_file_range(descriptor, copy, _COPY_STEP, offset, offset):
                offset += copied
        except OSError:
            os.close(copy)
            raise
        return copy

    def close(self) -> None:
        """Close the descriptors; the files stay."""
        for descriptor in (self.files, self.hidden, self._journal):
            os.close(descriptor)


def _opened(stack: ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor


def _drop_torn_line(journal: int) -> None:
    size = os.fstat(journal).st_size
    tail = os.pread(journal, 1 << 16, max(0, size - (1 << 16)))
    os.ftruncate(journal, size - len(tail) + tail.rfind(b"\n") + 1)


def _entries(journal: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = journal.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines[:-1]:  # what follows the last newline was torn by a crash, or is empty
        yield json.loads(line)


def published(directory: str | os.PathLike[str]) -> dict[str, ManifestEntry]:
    """By name, the latest publication of each result of a volume, read from its spool's journal."""
    entries = (entry["published"] for entry in _entries(Path(directory) / "journal.jsonl") if "published" in entry)
    return {values["name"]: ManifestEntry.from_dict(values) for values in entries}


def read_record(directory: str | os.PathLike[str]) -> VolumeRecord:
    """The record that `write_record` kept. Raises OSError, InvalidRecord."""
    return VolumeRecord.from_json((Path(directory) / "record.json").read_text(encoding="utf-8"))
