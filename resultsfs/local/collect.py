"""Reading results as Tekton's two collectors do, and what they make of them.

Rules from tektoncd/pipeline `pkg/entrypoint/entrypointer.go`, `pkg/termination/write.go`,
`internal/sidecarlogresults/sidecarlogresults.go`.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from resultsfs import message
from resultsfs.errors import ResultsError
from resultsfs.local.podspec import RESULTS, Content, LogLine
from resultsfs.typed import text_of

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Read:
    """A result as read: the first bytes of its content, as many as were asked for, and all of it measured."""

    name: str
    head: bytes
    content: Content


def read_result(
    name: str, keep: int, observe: Callable[[bytes], None] = lambda chunk: None, directory: str = RESULTS
) -> Read | None:
    """Read one result with the system calls of Go's os.ReadFile; None when there is no such file.

    Memory stays bounded: at most `keep` bytes are kept, and `observe` gets every chunk. Raises ResultsError
    with Go's wording for any other failure.
    """
    path = f"{directory}/{name}"
    operation = "open"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fstat(descriptor)
            operation = "read"
            head, size, digest = b"", 0, hashlib.sha256()
            while chunk := os.read(descriptor, _CHUNK):
                head += chunk[: keep - len(head)]
                size += len(chunk)
                digest.update(chunk)
                observe(chunk)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultsError(f"{operation} {path}: {os.strerror(error.errno or 0).lower()}", error.errno) from None
    return Read(name, head, Content(size, digest.hexdigest()))


def termination_message(results: Iterable[Read], *, reason: str | None, exit_code: int | None) -> tuple[bytes, str]:
    """The entrypoint's message, and what it prints before it exits with 1, or "".

    It writes twice: the results first, then the same with when it started and how it ended. A first write
    over the limit leaves no results, a second one leaves the first.
    """
    full = message.encode(((result.name, result.head) for result in results), exit_code=None)
    inner = message.encode((), exit_code=exit_code)
    if reason is not None:
        inner = inner[:-1] + f',{{"key":"Reason","value":"{reason}","type":3}}]'.encode()
    if len(full) == message.FIXED_COST:
        return inner, ""
    only_results = full[: -message.FIXED_COST] + b"]"
    if len(only_results) > message.LIMIT:
        return inner, message.TOO_LONG
    both = only_results[:-1] + b"," + inner[1:]
    if len(both) > message.LIMIT:
        return only_results, f"Error while writing message: {message.TOO_LONG}"
    return both, ""


class _LineLength:
    """Counts the bytes of the sidecar's JSON line for content that comes in chunks."""

    def __init__(self) -> None:
        self.cost = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def add(self, chunk: bytes, final: bool = False) -> None:
        text = self._decoder.decode(chunk, final)
        self.cost += message.json_cost(text.encode("utf-8", "surrogateescape"))


def log_line(name: str, limit: int) -> LogLine | None:
    """The line that sidecarlogresults prints for a result; None when there is no such file.

    At most `limit` + 1 bytes of content are kept: a longer line is over the limit whatever it holds.
    """
    length = _LineLength()
    found = read_result(name, limit + 1, length.add)
    if found is None:
        return None
    length.add(b"", final=True)
    return LogLine(name, text_of(found.head), message.sidecar_line_cost(name, length.cost), found.content)
