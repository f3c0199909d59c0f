"""Layers: tar files that are the same, byte for byte, for the same content, and kept by what they were made of."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Layer:
    """One layer of an image: an uncompressed tar, named by the SHA-256 of its bytes."""

    path: Path
    digest: str
    """`sha256:…` of the tar; also its diff id, since it is not compressed."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Entry:
    """A file, directory or link of a layer that is not on the disk in this form."""

    name: str
    """Path in the image, without a leading slash."""
    mode: int = 0o644
    content: bytes | Path | None = None
    """A file's bytes, or the file that has them; None for a directory or a link."""
    link: str | None = None
    """What a symbolic link points to."""


def cache_directory() -> Path:
    """Where images and their layers are kept: `$XDG_CACHE_HOME/resultsfs/images`."""
    found = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resultsfs" / "images"
    found.mkdir(parents=True, exist_ok=True)
    return found


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Nobody else on this machine makes what is called `name` meanwhile."""
    with (cache_directory() / f"{name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def cached(name: str, key: str, write: Callable[[Path], None]) -> Layer:
    """The layer `name` made of what `key` says; `write` makes its tar where there is none yet. Older ones go."""
    with locked(name):
        record = cache_directory() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        if record.exists():
            known = json.loads(record.read_text())
            layer = Layer(cache_directory() / known["file"], known["digest"], known["size"])
            if layer.path.exists() and layer.path.stat().st_size == layer.size:
                os.utime(record)
                return layer
        made = cache_directory() / f"{name}.partial"
        write(made)
        digest = sha256(made)
        layer = Layer(cache_directory() / f"{name}-{digest[7:23]}.tar", digest, made.stat().st_size)
        made.replace(layer.path)
        record.write_text(json.dumps({"file": layer.path.name, "digest": digest, "size": layer.size}))
        _forget_older(name)
        return layer


def _forget_older(name: str, keep: int = 4) -> None:
    records = sorted(cache_directory().glob(f"{name}-{'?' * 16}.json"), key=lambda found: found.stat().st_mtime)
    for record in records[:-keep]:
        record.unlink()
    wanted = {json.loads(record.read_text())["file"] for record in records[-keep:]}
    for tar in cache_directory().glob(f"{name}-{'?' * 16}.tar"):
        if tar.name not in wanted:
            tar.unlink()


def sha256(path: Path) -> str:
    """`sha256:…` of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def write_entries(tar: Path, entries: list[Entry]) -> None:
    """Write a tar of entries: sorted, owned by root, at the epoch, parents included."""
    names = {entry.name for entry in entries}
    parents = {str(parent) for name in names for parent in Path(name).parents if str(parent) != "."}
    everything = [*entries, *(Entry(name, 0o755) for name in parents - names)]
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as out:
        for entry in sorted(everything, key=lambda entry: entry.name):
            info = tarfile.TarInfo(entry.name)
            info.mode = entry.mode
            if entry.link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
                out.addfile(info)
            elif entry.content is None:
                info.type = tarfile.DIRTYPE
                out.addfile(info)
            else:
                content = entry.content.read_bytes() if isinstance(entry.content, Path) else entry.content
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))


def write_tree(tar: Path, root: Path, prefix: str = "") -> None:
    """Write a tar of a directory's content below `prefix`: sorted, owned by root, at the epoch.

    Raises ValueError for what is no file, directory or symbolic link.
    """
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as out:
        for path in sorted(root.rglob("*"), key=lambda found: str(found.relative_to(root))):
            status = path.lstat()
            info = tarfile.TarInfo(prefix + str(path.relative_to(root)))
            info.mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
                out.addfile(info)
            elif stat.S_ISDIR(status.st_mode):
                info.type = tarfile.DIRTYPE
                out.addfile(info)
            elif stat.S_ISREG(status.st_mode):
                info.size = status.st_size
                with path.open("rb") as file:
                    out.addfile(info, file)
            else:
                raise ValueError(f"{path}: neither a file, a directory nor a symbolic link")


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that is gone afterwards, on the cache's disk."""
    with tempfile.TemporaryDirectory(prefix="partial-", dir=cache_directory()) as found:
        yield Path(found)
