"""Keeping small things on a disk that may be full, for who reads them after a crash: whole, or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def append_line(descriptor: int, line: bytes) -> None:
    """Append a line, whole or not at all, to a file opened with O_APPEND to which nobody else appends meanwhile.

    Who is killed within leaves a torn line at the end, and nowhere else. Raises OSError.
    """
    rest = memoryview(line + b"\n")
    done = 0
    try:
        while done < len(rest):
            done += os.write(descriptor, rest[done:])  # a disk that fills up takes a part first, without an error
    except OSError:
        if done:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - done)
        raise


def replace(path: Path, text: str) -> None:
    """Replace a file's content by way of `.partial` beside it, which is gone again where this fails. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
