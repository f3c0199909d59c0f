"""`make bench-csi`: what the node driver costs: publishing, a hundred volumes at once, memory while they are idle.

Holder, mounter and driver as they run on a node, asked over gRPC as the kubelet asks; no store and no API server, for
neither is asked when a volume is published.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.table import Table

from benchmarks import processes
from resultsfs.units import format_size
from tests.support.node import Node, Process, VolumeOf, running

TIMES, TOGETHER = 100, 100
PUBLISH, BURST, MEMORY = 0.025, 3.0, 120_000_000
"""The targets: seconds, seconds, bytes."""


def publish_and_write(volume: VolumeOf) -> float:
    """Seconds from the request to the end of a first create, write and close."""
    began = time.perf_counter()
    (volume.publish() / "report").write_bytes(b"x")
    return time.perf_counter() - began


def one_by_one(node: Node) -> tuple[list[float], list[float]]:
    """Seconds of each publish with its first write, and of each unpublish; the first of all warms up."""
    published, unpublished = [], []
    for _ in range(TIMES + 1):
        volume = node.volume()
        published.append(publish_and_write(volume))
        began = time.perf_counter()
        volume.unpublish()
        unpublished.append(time.perf_counter() - began)
    return published[1:], unpublished[1:]


def at_once(node: Node) -> tuple[float, list[VolumeOf]]:
    """Seconds until the last of many volumes, asked for at once, has been written to; the volumes."""
    volumes = [node.volume() for _ in range(TOGETHER)]
    with ThreadPoolExecutor(TOGETHER) as pool:
        began = time.perf_counter()
        list(pool.map(publish_and_write, volumes))
        return time.perf_counter() - began, volumes


def main() -> None:
    """Measure and print; exit code 1 when a target is missed."""
    if os.geteuid() != 0:
        sys.exit("mounting directly takes root")
    with running() as node:
        empty = {process.name: processes.resident([process.pid]) for process in _processes(node)}
        published, unpublished = one_by_one(node)
        burst, volumes = at_once(node)
        idle = {process.name: processes.resident([process.pid]) for process in _processes(node)}
        for volume in volumes:
            volume.unpublish()
    both = idle["driver"] + idle["mounter"]
    median = statistics.median(published)
    table = Table("figure", "value", "target", title="The node driver")
    rows: list[tuple[str, str, bool | None, str]] = [
        (f"publish to first write done, median of {TIMES}", f"{median * 1000:.1f} ms", median <= PUBLISH, "25 ms"),
        ("the same, 95th percentile", f"{statistics.quantiles(published, n=20)[-1] * 1000:.1f} ms", None, ""),
        (f"unpublish, median of {TIMES}", f"{statistics.median(unpublished) * 1000:.1f} ms", None, ""),
        (f"{TOGETHER} volumes published at once: all written to", f"{burst:.2f} s", burst <= BURST, "3 s"),
        (
            f"resident memory of driver and mounter, {TOGETHER} idle volumes",
            format_size(both),
            both <= MEMORY,
            "120 MB",
        ),
    ]
    rows += [
        (
            f"  {name}: without, and with {TOGETHER} idle volumes",
            f"{format_size(empty[name])}, {format_size(size)}",
            None,
            "",
        )
        for name, size in idle.items()
    ]
    for figure, value, reached, target in rows:
        judged = "" if reached is None else f"{'reached' if reached else 'MISSED'}: at most {target}"
        table.add_row(figure, value, judged)
    Console(width=None if os.isatty(1) else 140).print(table)
    sys.exit(0 if all(reached is not False for _, _, reached, _ in rows) else 1)


def _processes(node: Node) -> tuple[Process, ...]:
    return (node.driver, node.mounter, node.holder)


if __name__ == "__main__":
    main()
