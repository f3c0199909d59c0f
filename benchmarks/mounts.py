"""What a mount costs: the time until it can be used, and memory while nobody uses it, for one mount and for many."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import peers, processes
from benchmarks.contenders import OURS
from benchmarks.peers import Missing
from benchmarks.sampling import BYTES, SECONDS, Recorder
from benchmarks.scale import Scale
from resultsfs.holder.messages import Mount as MountRequest
from resultsfs.holder.messages import Mounted
from tests.support.holder import stage
from tests.support.mount import Mount, record
from tests.support.rclone import S3Server

GROUP = "mounts"
TOGETHER, EACH, RCLONE = OURS + "native", OURS + "fusepy", "rclone mount"
_TIMES = 5  # a single mount is made so often

Made = tuple[list[float], float]
"""Seconds until the first operation of each mount was done, and bytes of memory a mount."""


def first(count: int) -> str:
    """The name of the figure: from the request to the end of a first create, write and close."""
    return f"{count} mounts: first operation done" if count > 1 else "1 mount: first operation done"


def idle(count: int) -> str:
    """The name of the figure: memory (PSS) of all processes that serve, beyond what they have without a mount."""
    return f"{count} mounts: memory a mount" if count > 1 else "1 mount: memory"


def run(chosen: Sequence[str], server: S3Server, directory: Path, scale: Scale, recorder: Recorder) -> None:
    """Take the group's figures, those of one contender after the other: they would not fit beside each other."""
    makers: dict[str, Callable[[int], Made]] = {
        TOGETHER: _together,
        EACH: _each,
        RCLONE: lambda count: _rclone(count, server, directory),
    }
    for count in scale.mounts:
        for name in (name for name in makers if name in chosen):
            recorder.tell(f"{GROUP}: {count} through {name}")
            try:
                made = [makers[name](count) for _ in range(_TIMES if count == 1 else 1)]
            except (Missing, OSError) as error:
                recorder.missing[f"{name}, {GROUP}: {count}"] = str(error)
                continue
            recorder.add(GROUP, first(count), name, SECONDS, *(taken for times, _ in made for taken in times))
            recorder.add(GROUP, idle(count), name, BYTES, *(memory for _, memory in made))


def _use(path: Path) -> None:
    descriptor = os.open(path / "first", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.write(descriptor, b"first")
    os.close(descriptor)


def _together(count: int) -> Made:
    """All by one holder and one server, which run and have served a mount before."""
    with stage() as place:
        daemons = [place.holder().pid, place.server().pid]
        _use(place.mount("warm"))
        before, times = processes.proportional(daemons), []
        for number in range(count):
            volume = place.volume(f"v{number}")
            began = time.perf_counter()
            place.ask(MountRequest(volume), Mounted)
            _use(Path(volume.mountpoint))
            times.append(time.perf_counter() - began)
        return times, (processes.proportional(daemons) - before) / count


def _each(count: int) -> Made:
    """A process for each."""
    with ExitStack() as ends:
        mounts, times = [], []
        for _ in range(count):
            mount = ends.enter_context(_fusepy())
            began = time.perf_counter()
            mount.start()
            _use(mount.path)
            times.append(time.perf_counter() - began)
            mounts.append(mount)
        return times, processes.proportional([pid for mount in mounts for pid in mount.pids]) / count


@contextmanager
def _fusepy() -> Iterator[Mount]:
    """A volume that is not served yet."""
    with tempfile.TemporaryDirectory(prefix="resultsfs-bench-mount-") as name:
        mount = Mount(Path(name), record(), {}, "fusepy", None, None)
        try:
            yield mount
        finally:
            mount.stop()


def _rclone(count: int, server: S3Server, directory: Path) -> Made:
    with ExitStack() as ends:
        found, times = [], []
        for _ in range(count):
            peer = ends.enter_context(peers.mounted(RCLONE, server, directory, prompt=False))
            peer.stop()
            began = time.perf_counter()
            peer.start()
            _use(peer.path)
            times.append(time.perf_counter() - began)
            found.append(peer)
        return times, processes.proportional([pid for peer in found for pid in peer.pids]) / count
