"""From close to durable in the store, and a reference's content back again, against s3fs sending the same directly."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.contenders import OURS, Contender, Resultsfs
from benchmarks.peers import Peer
from benchmarks.routes import Collected, Direct, Route, Uploaded
from benchmarks.sampling import COUNT, SECONDS, Recorder
from benchmarks.scale import KIB, MIB, Scale
from benchmarks.settling import settle
from benchmarks.streams import read_file
from resultsfs.units import format_size
from tests.support.mount import mounted

GROUP, REFERENCES = "durable", "references"
CONNECTIONS = "connections to the store"
_COLD_SPILL = 64 * KIB
_COPIES = 3  # of a content in the page cache: where it is written, at the server, where it comes back


def until_durable(size: int) -> str:
    """The name of the figure for contents of one size."""
    return f"close to durable, {format_size(size)}"


def run(contenders: Sequence[Contender], direct: Sequence[Direct], scale: Scale, recorder: Recorder) -> None:
    """How long it takes until a content is in the store."""
    collected = _collected(contenders)
    routes: list[Route] = [*direct, *collected]
    routes += [Uploaded(contender) for contender in contenders if isinstance(contender, Peer)]
    for way in collected:
        way.spill(_COLD_SPILL)  # so that the daemon has loaded its client, as the direct ways have
    for size in scale.durable:
        recorder.interleaved(
            GROUP,
            until_durable(size),
            routes,
            scale.repetitions if size < 10 * MIB else scale.long_repetitions,
            partial(_store, size),
            volume=size if size >= 10 * MIB else 0,
        )
    for way in collected:
        recorder.interleaved(GROUP, "the same, first spill of a daemon (64 KiB)", [way], scale.long_repetitions, _first)


def _collected(contenders: Sequence[Contender]) -> list[Collected]:
    return [Collected(contender) for contender in contenders if isinstance(contender, Resultsfs)]


def _store(size: int, route: Route) -> float:
    settle(_COPIES * size)
    return route.store(size)


def _first(way: Collected) -> float:
    way.volume.start_again()
    return way.store(_COLD_SPILL)


def run_references(contenders: Sequence[Contender], direct: Sequence[Direct], scale: Scale, recorder: Recorder) -> None:
    """How long it takes to read a reference that this node has not seen, and to read it again."""
    again: dict[str, list[float]] = {}

    def fetch(way: Direct | Collected) -> float:
        settle(_COPIES * scale.read)
        if isinstance(way, Direct):
            return way.fetch(scale.read)
        path = way.volume.path / ".ref" / way.spill(scale.read).name
        cold = _timed_read(path, scale.read)
        again.setdefault(way.name, []).append(_timed_read(path, scale.read))
        return cold

    routes: list[Direct | Collected] = [*direct, *_collected(contenders)]
    size = format_size(scale.read)
    recorder.interleaved(REFERENCES, f"read {size}, cold", routes, scale.long_repetitions, fetch, volume=scale.read)
    for name, samples in again.items():
        recorder.add(REFERENCES, f"read {size}, again", name, SECONDS, *samples)


def _timed_read(path: Path, size: int) -> float:
    began = time.perf_counter()
    total = read_file(path)
    taken = time.perf_counter() - began
    if total != size:
        raise OSError(f"{path}: {total} bytes were read of {size}")
    return taken


def run_untouched(chosen: Sequence[str], scale: Scale, recorder: Recorder) -> None:
    """Whether small results touch the store: its address is a socket of ours, on which nobody may call."""
    for name in chosen:
        recorder.tell(f"{GROUP}: {CONNECTIONS}, {name}")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            host, port = listener.getsockname()
            settings = {
                "store": "s3://untouched/prefix",
                "s3-endpoint": f"http://{host}:{port}",
                "s3-region": "us-east-1",
                "spill-delay": "0",
            }
            with mounted(transport=name.removeprefix(OURS), settings=settings) as mount:
                way = Collected(Resultsfs(name, mount))
                for _ in range(scale.repetitions):
                    _, published = way.collect(KIB)
                    if len(published) != KIB:
                        raise OSError(f"{name}: the collector read {len(published)} bytes of a result of {KIB}")
            recorder.add(GROUP, CONNECTIONS, name, COUNT, _waiting(listener))


def _waiting(listener: socket.socket) -> int:
    """How many have connected."""
    count = 0
    while select.select([listener], [], [], 0)[0]:
        listener.accept()[0].close()
        count += 1
    return count
