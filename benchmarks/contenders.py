"""Directories to be measured: a plain one, ours by each transport, and the peers that are installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from benchmarks import peers
from benchmarks.peers import Missing, first_file
from benchmarks.sampling import Recorder
from resultsfs.kernel import passthrough
from resultsfs.settings import to_mapping
from tests.support.mount import TRANSPORTS, Mount, mounted
from tests.support.rclone import S3Server

PLAIN = "plain directory"
OURS = "resultsfs "
NATIVE, FUSEPY = OURS + "native", OURS + "fusepy"
WITHOUT = NATIVE + " without passthrough"
"""What our mounts do where passthrough cannot be had: small files and streams only, for the rest is the same."""


class Contender(Protocol):
    """A directory in which the same operations are timed."""

    @property
    def name(self) -> str:
        """The column."""
        ...

    @property
    def pids(self) -> Sequence[int]:
        """The processes that serve it; none for a plain directory."""
        ...

    @property
    def path(self) -> Path:
        """Where to work."""
        ...

    def beneath(self, name: str) -> Path | None:
        """The file on the disk that holds a file's content, where one is known."""
        ...

    def start_again(self) -> float:
        """End what serves it and start it again; seconds from the start until a first file has been made."""
        ...


class Plain:
    """A directory on the disk that all share: what every ratio is against."""

    name = PLAIN
    pids: Sequence[int] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    def beneath(self, name: str) -> Path | None:
        """The file itself."""
        return self.path / name

    def start_again(self) -> float:
        """Nothing starts; a first file is made."""
        return first_file(self.path, time.perf_counter())


class Resultsfs:
    """A volume of ours, its store in the S3 server."""

    def __init__(self, name: str, mount: Mount) -> None:
        self.name = name
        self.mount = mount
        self.path = mount.path

    @property
    def pids(self) -> Sequence[int]:
        """The daemon's processes."""
        return self.mount.pids

    def beneath(self, name: str) -> Path | None:
        """The spool's file."""
        return self.mount.spool / "files" / name

    def start_again(self) -> float:
        """A new daemon on the same spool."""
        self.mount.stop()
        began = time.perf_counter()
        self.mount.start()
        return first_file(self.path, began)


@contextmanager
def resultsfs(name: str, server: S3Server) -> Iterator[Resultsfs]:
    """A volume of ours with one declared result, `report`. `name` is `resultsfs <transport>`."""
    settings = {**to_mapping(server.settings()), "cache-size-limit": "8GiB"}
    transport = name.removeprefix(OURS).split()[0]
    with ExitStack() as ends:
        with pytest.MonkeyPatch.context() as patch:  # until its daemon has been started
            if name == WITHOUT:
                patch.setenv(passthrough.OFF, "off")
            mount = ends.enter_context(mounted(transport=transport, settings=settings, results=("report",)))
        yield Resultsfs(name, mount)


@contextmanager
def _plain(directory: Path) -> Iterator[Plain]:
    path = directory / "plain"
    path.mkdir()
    yield Plain(path)


def names() -> list[str]:
    """All columns: the plain directory, ours by transport, the peers."""
    return [PLAIN, *(OURS + transport for transport in TRANSPORTS), WITHOUT, *peers.PEERS]


def ours(chosen: Sequence[str]) -> list[str]:
    """Those of the chosen that are ours."""
    return [name for name in chosen if name.startswith(OURS)]


@contextmanager
def opened(
    chosen: Sequence[str], server: S3Server, directory: Path, recorder: Recorder, *, prompt: bool = False
) -> Iterator[list[Contender]]:
    """The chosen contenders, ready; peers that are not installed are noted and left out.

    `prompt` peers upload as soon as a file is closed; otherwise as they do by default.
    """
    with ExitStack() as stack:
        found: list[Contender] = []
        for name in chosen:
            make = _maker(name, server, directory, prompt)
            try:
                found.append(stack.enter_context(make()))
            except Missing as error:
                recorder.missing[name] = str(error)
        yield found


def _maker(
    name: str, server: S3Server, directory: Path, prompt: bool
) -> Callable[[], AbstractContextManager[Contender]]:
    if name == PLAIN:
        return lambda: _plain(directory)
    if name.startswith(OURS):
        return lambda: resultsfs(name, server)
    return lambda: peers.mounted(name, server, directory, prompt=prompt)
