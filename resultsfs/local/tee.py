"""stdoutConfig and stderrConfig: a step's output goes to a file as well, written by the entrypoint.

As in tektoncd/pipeline `cmd/entrypoint/runner.go`: the file is appended to, and created if need be.
"""

from __future__ import annotations

import os
import selectors

from resultsfs.errors import ResultsError

_CHUNK = 1 << 16


class Tee:
    """The streams of one step that are copied to a file. `stdout` and `stderr` are what the step writes to.

    Raises ResultsError, with the entrypoint's words, when a file cannot be opened.
    """

    def __init__(self, stdout_path: str | None, stderr_path: str | None) -> None:
        self.stdout, self.stderr = 1, 2
        self.error = ""
        self._copies: dict[int, tuple[int, int, str]] = {}
        self._given: list[int] = []
        if stdout_path is not None:
            self.stdout = self._copy(1, stdout_path)
        if stderr_path is not None:
            self.stderr = self._copy(2, stderr_path)

    def _copy(self, stream: int, path: str) -> int:
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ResultsError(f"error opening {path}: {error.strerror}", error.errno) from None
        source, end = os.pipe()
        self._copies[source] = (stream, file, path)
        self._given.append(end)
        return end

    def started(self) -> None:
        """The step has its ends: close ours, so that the copies end when the step's last process does."""
        for end in self._given:
            os.close(end)
        self._given.clear()

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have `selector` watch the copies; `pump` takes what it finds readable."""
        for source in self._copies:
            selector.register(source, selectors.EVENT_READ, self)

    @property
    def open(self) -> bool:
        """Whether a copy has not come to its end."""
        return bool(self._copies)

    def pump(self, source: int, selector: selectors.BaseSelector) -> None:
        """Copy what one stream holds. A file that cannot be written ends its copy, and `error` says why."""
        stream, file, path = self._copies[source]
        chunk = os.read(source, _CHUNK)
        try:
            _write(stream, chunk)
            _write(file, chunk)
        except OSError as error:
            self.error = self.error or f"write {path}: {(error.strerror or '').lower()}"
            chunk = b""
        if not chunk:
            selector.unregister(source)
            os.close(source)
            del self._copies[source]
            self._close(file, path)

    def close(self) -> None:
        """Give up what has not come to its end."""
        for source, (_, file, path) in self._copies.items():
            os.close(source)
            self._close(file, path)
        self._copies.clear()

    def _close(self, file: int, path: str) -> None:
        try:
            os.close(file)
        except OSError as error:
            self.error = self.error or f"close {path}: {(error.strerror or '').lower()}"


def _write(file: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(file, chunk) :]
