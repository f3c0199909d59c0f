"""What a session has told the kernel and cannot find in the spool again, kept for a server that takes over.

`session.json` says what was negotiated at INIT; `nodes.jsonl` holds a JSON object a line, appended before the answer:

    {"view": [nodeid, path, pid, started, stat]}   a collector's node, and the file's attributes
    {"writes": [path, pid, started]}           a collector was sent to look the file itself up; `wrote`: it came
    {"reference": [nodeid, name]}              content by reference
    {"exceeded": [inode, errno, text, error]}  a file was cut to a limit, which its writer is told when it closes
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resultsfs.collector import Collector
from resultsfs.errors import NodeDiskFull, ResultsError, ResultTooLarge, VolumeFull
from resultsfs.keeping import append_line, replace

log = logging.getLogger(__name__)

_LEAST = 16 << 10  # bytes of notes below which no collectors are looked for that are gone

_OPENED = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC

_LIMITS: dict[str, type[ResultsError]] = {kind.__name__: kind for kind in (ResultTooLarge, VolumeFull, NodeDiskFull)}


@dataclass(slots=True)
class Negotiated:
    """What INIT, the request `unique`, agreed upon. `passthrough` is None until that is decided, which is after the answer."""

    unique: int
    minor: int
    readahead: int
    flags: int
    passthrough: bool | None = None

    def save(self, directory: Path) -> None:
        """Keep it. Raises OSError."""
        replace(directory / "session.json", json.dumps(asdict(self)))

    @classmethod
    def load(cls, directory: Path) -> Negotiated | None:
        """What a predecessor kept; None when it did not get so far. Raises OSError, ValueError."""
        try:
            return cls(**json.loads((directory / "session.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


class Notes:
    """The notes of one mount. Used by one thread, but for `exceeded`. Opening them raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "nodes.jsonl"
        self.views: dict[int, tuple[str, Collector, os.stat_result]] = {}
        self.writers: set[tuple[Collector, str]] = set()
        self.references: dict[int, str] = {}
        self.cut: dict[int, OSError] = {}
        self.keep: Callable[[Collector], bool] = lambda _: True
        """Whether what a collector was shown is to be kept."""
        self._lock = threading.RLock()
        self._most = _LEAST
        self._file = os.open(self._path, _OPENED, 0o600)
        try:
            os.ftruncate(self._file, self._read())  # a torn last line was never acted upon
        except BaseException:
            os.close(self._file)
            raise

    def _read(self) -> int:
        """Take all that was noted; where it ends."""
        content = self._path.read_bytes()
        end = content.rfind(b"\n") + 1
        for line in content[:end].splitlines():
            self._take(json.loads(line))
        return end

    def _take(self, line: dict[str, Any]) -> None:
        for kind, values in line.items():
            if kind == "view":
                nodeid, path, pid, started, found = values
                self.views[nodeid] = (path, Collector(pid, started), _stat(found))
            elif kind in ("writes", "wrote"):
                path, pid, started = values
                (self.writers.add if kind == "writes" else self.writers.discard)((Collector(pid, started), path))
            elif kind == "reference":
                self.references[values[0]] = values[1]
            elif kind == "exceeded":
                inode, code, text, kind = values
                self.cut[inode] = _LIMITS[kind](text) if kind in _LIMITS else OSError(code, text)

    def _append(self, line: dict[str, Any]) -> None:
        try:
            with self._lock:
                append_line(self._file, json.dumps(line, separators=(",", ":")).encode())
        except OSError as error:
            log.warning("%s would not outlive this server: %s", next(iter(line)), error.strerror)

    def view(self, nodeid: int, path: str, collector: Collector, found: os.stat_result) -> None:
        """A collector is about to be told its node. From time to time makes the file shorter."""
        if os.fstat(self._file).st_size > self._most:
            with self._lock:
                self._read()
                self.prune()
        self._append({"view": [nodeid, path, collector.pid, collector.started, list(found)]})

    def writes(self, path: str, collector: Collector) -> None:
        """A collector is about to be sent to look the file itself up."""
        self._append({"writes": [path, collector.pid, collector.started]})

    def wrote(self, path: str, collector: Collector) -> None:
        """It has come."""
        self._append({"wrote": [path, collector.pid, collector.started]})

    def reference(self, nodeid: int, name: str) -> None:
        """Content by reference is about to be told; noted once."""
        if self.references.get(nodeid) != name:
            self.references[nodeid] = name
            self._append({"reference": [nodeid, name]})

    def exceeded(self, inode: int, error: OSError) -> None:
        """A file is about to be cut, or a write that has returned could not be kept."""
        self._append({"exceeded": _told(inode, error)})

    def prune(self) -> None:
        """Drop what belongs to collectors that are not to be kept, and what says nothing any more.

        Where the disk has no room the file stays as it is: what it says too much does no harm.
        """
        collectors = {found[1] for found in self.views.values()} | {found[0] for found in self.writers}
        keep = {collector for collector in collectors if self.keep(collector)}
        self.views = {nodeid: found for nodeid, found in self.views.items() if found[1] in keep}
        self.writers = {found for found in self.writers if found[0] in keep}
        lines: list[dict[str, Any]] = [
            *(
                {"view": [nodeid, path, who.pid, who.started, list(found)]}
                for nodeid, (path, who, found) in self.views.items()
            ),
            *({"writes": [path, who.pid, who.started]} for who, path in self.writers),
            *({"reference": [nodeid, name]} for nodeid, name in self.references.items()),
            *({"exceeded": _told(inode, error)} for inode, error in self.cut.items()),
        ]
        try:
            with self._lock:
                self._replace(lines)
        except OSError as error:
            log.warning("%s is not made shorter: %s", self._path, error.strerror)
        self._most = max(_LEAST, 2 * os.fstat(self._file).st_size)

    def _replace(self, lines: list[dict[str, Any]]) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        try:
            fresh = os.open(partial, _OPENED | os.O_TRUNC, 0o600)
            try:
                for line in lines:
                    append_line(fresh, json.dumps(line).encode())
                partial.replace(self._path)
            except BaseException:
                os.close(fresh)
                raise
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file = fresh

    def close(self) -> None:
        """Close the file, which stays."""
        os.close(self._file)


def _told(inode: int, error: OSError) -> list[object]:
    return [inode, error.errno, str(error.strerror), type(error).__name__]


def _stat(values: list[int]) -> os.stat_result:
    """Attributes as they were noted, in whole seconds."""
    times = {
        f"st_{name}_ns": seconds * 10**9 for name, seconds in zip(("atime", "mtime", "ctime"), values[7:], strict=True)
    }
    return os.stat_result(values, {**times, "st_blocks": 0, "st_blksize": 4096, "st_rdev": 0})
