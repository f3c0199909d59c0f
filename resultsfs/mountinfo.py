"""Which filesystems are mounted, from /proc/self/mountinfo: a dead mount is never touched to find out.

Format: proc(5), `/proc/pid/mountinfo`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

FILESYSTEM = "fuse.resultsfs"
"""The type under which our mounts stand in the table."""

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table. `device` is `major:minor`; `options` are the mount's, then the superblock's."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mountpoint: str
    filesystem: str
    source: str
    options: frozenset[str]

    @property
    def ours(self) -> bool:
        """Whether it is one of resultsfs."""
        return self.filesystem == FILESYSTEM


def _text(field: bytes) -> str:
    """A field with its `\\040` escapes undone; bytes that are not UTF-8 as surrogates, as in all paths."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))


def parse(table: bytes) -> list[Mount]:
    """The table's lines in order: of several mounts at one point the last is on top."""
    return [_parse_line(line) for line in table.split(b"\n") if line]


def _parse_line(line: bytes) -> Mount:
    fields = line.split(b" ")
    # after six fields there are optional ones up to a single dash
    dash = fields.index(b"-", 6)
    options = (fields[5] + b"," + (fields[dash + 3] if len(fields) > dash + 3 else b"")).split(b",")
    return Mount(
        int(fields[0]),
        int(fields[1]),
        fields[2].decode("ascii"),
        _text(fields[3]),
        _text(fields[4]),
        _text(fields[dash + 1]),
        _text(fields[dash + 2]),
        frozenset(_text(option) for option in options if option),
    )


def mounts() -> list[Mount]:
    """All mounts that this process sees."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse(file.read())


def all_at(path: str) -> list[Mount]:
    """The mounts whose mount point is exactly `path` (as `canonical` spells it), the topmost last.

    Only their lines are parsed, for the table may be long.
    """
    escaped = os.fsencode(path)
    for byte in b"\\ \t\n":  # what seq_path(9) is told to escape in this table, the backslash first
        escaped = escaped.replace(bytes([byte]), b"\\%03o" % byte)
    field = b" " + escaped + b" "
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line for line in file.read().split(b"\n") if field in line]
    return [mount for mount in parse(b"\n".join(lines)) if mount.mountpoint == path]


def at(path: str, table: Iterable[Mount] | None = None) -> Mount | None:
    """The topmost mount whose mount point is exactly `path` (as `canonical` spells it), or None."""
    found = None
    for mount in all_at(path) if table is None else table:
        if mount.mountpoint == path:
            found = mount
    return found


def canonical(path: str) -> str:
    """The absolute path as the table spells it: links followed, but the path itself is never looked at.

    Only where nothing is mounted at it, it may be a link itself, which is then followed.
    """
    absolute = os.path.abspath(path)
    parent, name = os.path.split(absolute)
    named = os.path.join(os.path.realpath(parent), name) if name else absolute
    return named if at(named) is not None else os.path.realpath(named)
