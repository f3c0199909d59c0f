"""What a collector is shown, kept in the spool before it is shown: another server goes on with the very same.

One JSON file a collector process, `session/collections/<pid>-<started>.json`, replaced whole.
"""

from __future__ import annotations

import json
import logging
import os
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from resultsfs.collected import Collected
from resultsfs.collector import Collector
from resultsfs.keeping import replace
from resultsfs.publication import Candidate, Decision, Elements, Form
from resultsfs.record import ResultType
from resultsfs.uploads import FileSource

log = logging.getLogger(__name__)


class FoundAt(NamedTuple):
    """Where a collector found a result: the path that its name leads to, links followed, and the file's inode number."""

    path: str
    inode: int
    name: str


@dataclass(slots=True)
class Frozen:
    """One collection as it was kept: since when it waits (monotonic seconds), whether one of its publications is still to
    be lengthened, at which path and inode number each result's file was found, and by name the errors that it met."""

    begun: float
    overfull: bool
    files: list[FoundAt]
    unreadable: dict[str, int]
    items: list[Collected]


def _path(session: Path, collector: Collector) -> Path:
    return session / "collections" / f"{collector.pid}-{collector.started}.json"


def save(session: Path, collector: Collector, kept: Frozen) -> None:
    """Keep a collection. Where the disk has no room the collector is served all the same, and that is logged."""
    path = _path(session, collector)
    paths = {found.name: found.path for found in kept.files}
    state = {
        "begun": kept.begun,
        "overfull": kept.overfull,
        "files": kept.files,
        "unreadable": kept.unreadable,
        "items": [_freeze(item, paths) for item in kept.items],
    }
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace(path, json.dumps(state))
    except OSError as error:
        log.warning("what collector %d reads would not outlive this server: %s", collector.pid, error.strerror)


def load(session: Path, collector: Collector, reopen: Callable[[str, int], FileSource]) -> Frozen | None:
    """What was kept for a collector; None when nothing was.

    `reopen` opens the file of a result that is still to be stored, by name and inode number; where that is gone, so is
    the result.
    """
    try:
        state = json.loads(_path(session, collector).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    thawed = (_thaw(values, reopen) for values in state["items"])
    # a server before this one kept a path with each result that was new
    files = state.get("files") or [(values["path"], 0, values["name"]) for values in state["items"] if "path" in values]
    found = [FoundAt(*file) for file in files]
    return Frozen(
        state["begun"],
        state["overfull"],
        found,
        state.get("unreadable", {}),
        [item for item in thawed if item is not None],
    )


def collectors(session: Path) -> list[Collector]:
    """The collectors for which something is kept."""
    names = (path.stem.split("-") for path in (session / "collections").glob("*.json"))
    return [Collector(int(pid), int(started)) for pid, started in names]


def is_kept(session: Path, collector: Collector) -> bool:
    """Whether something is kept for a collector."""
    return _path(session, collector).exists()


# -- files that are awaited and lose their names --------------------------------------------------------------


def hold(session: Path, directory: int, name: str, inode: int) -> None:
    """Keep a file that is about to lose a name, so that another server can go on storing it. Raises OSError."""
    held = session / "held"
    held.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.link(name, held / str(inode), src_dir_fd=directory, follow_symlinks=False)


def open_held(session: Path, inode: int) -> int | None:
    """A descriptor of a file that is held; None for others."""
    try:
        return os.open(session / "held" / str(inode), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def drop_held(session: Path, awaited: Callable[[int], bool]) -> None:
    """Let go of files that nobody awaits any more."""
    with suppress(FileNotFoundError):
        for name in os.listdir(session / "held"):
            if not awaited(int(name)):
                (session / "held" / name).unlink(missing_ok=True)


def forget(session: Path, collector: Collector) -> None:
    """A collector is gone."""
    _path(session, collector).unlink(missing_ok=True)


def _text(content: bytes | None) -> str | None:
    return None if content is None else b64encode(content).decode("ascii")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)


def _freeze(item: Collected, paths: dict[str, str]) -> dict[str, Any]:
    shown = item.shown
    return {
        "names": item.names,
        "name": item.name,  # this and the path for an older server, to which an upgrade may be taken back
        "path": paths.get(item.name, f"/{item.name}"),
        "size": item.size,
        "digest": item.digest,
        "type": item.candidate.type,
        "cost": item.candidate.cost,
        "form": item.decision.form.value,
        "spilled": sorted(item.decision.spilled),
        "cut": item.cut,
        "publication": _text(shown),
        "content": _text(item.content) if shown is None else None,
        "inode": item.inode,
    }


def _thaw(values: dict[str, Any], reopen: Callable[[str, int], FileSource]) -> Collected | None:
    publication, content = _bytes(values["publication"]), _bytes(values["content"])
    name, *also = values.get("names") or [values["name"]]  # the latter by a server before this one
    source = None
    if publication is None and content is None:
        try:
            source = reopen(name, values["inode"])
        except OSError as error:
            log.info("result %s is gone before it was stored: %s", name, error.strerror)
            return None
    kind, form = ResultType(values["type"]), Form(values["form"])
    elements = Elements.parse(content, kind) if content is not None and form is Form.SKELETON else None
    return Collected(
        (name, *also),
        values["inode"],
        source,
        values["size"],
        content,
        values["digest"],
        Candidate(name, values["size"], values["cost"], type=kind, elements=elements, also=tuple(also)),
        Decision(form, frozenset(values["spilled"])),
        publication=publication,
        cut=values["cut"],
    )
