"""`python -m benchmarks.cluster`: what results cost on a cluster, with stock Tekton and on resultsfs.

See docs/benchmarks.md.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.sampling import Spread
from benchmarks.usage import PEAK, RESIDENT, Usage
from resultsfs.reference import LENGTH
from tests.cluster.etcd import Etcd
from tests.cluster.flags import feature_flags
from tests.cluster.images import recipes
from tests.cluster.images.importing import load
from tests.cluster.installation import LABEL, installed
from tests.cluster.kube import PIPELINERUN, Kube, Manifest
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import places
from tests.cluster.room import Room, outcome, results, succeeded, task, taskrun

STOCK, SIDECAR, OURS = "termination-message", "sidecar-logs", "resultsfs"
_SIDECAR_FLAGS: dict[str, str | int] = {"results_from": SIDECAR, "max_result_size": 150_000}
_ROUNDS = 4
"""Modes of Tekton take their turn so often, so that noise hits all; changing Tekton's flags takes a moment."""
_NAMES = ("sbom", "report", "index")
_SIZE = 100_000
_UPTIME = "cut -d' ' -f1 /proc/uptime > $(results.began.path)"
"""The step's own clock when its command begins: seconds since boot, the same clock as ours, to 10 ms."""
_RELIST = 1.0
"""Seconds: so often the kubelet looks for containers that have ended. Started right after another's end, a TaskRun
would always meet it at the same moment, and a small delay cost nothing or a whole second; so each waits at random."""
_RUNNING, _COMPLETED = "created to first step running", "created to seen as completed"
_SMALL, _LARGE = "a TaskRun with a small result", "a PipelineRun with three results of 100 KB"
_RESULTS_ARE_IN = ("tekton.dev/pipelineruns", "tekton.dev/taskruns")
MOST_ADDED = 0.3
"""Seconds: what resultsfs may add to termination messages."""
LEAST_SAVED = 100
"""How many times fewer bytes of etcd results may take with resultsfs than by sidecar logs."""

Samples = dict[str, dict[str, list[float]]]
"""Seconds, by figure and mode."""
Stored = dict[str, dict[str, int]]
"""Bytes, by way and resource."""


@click.command()
@click.option("--repeat", default=20, show_default=True, help="TaskRuns for each mode, and PipelineRuns.")
@click.option("--instance", default="", help="A further cluster of this checkout, by its name.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write all samples here, as JSON.")
def main(repeat: int, instance: str, output: Path | None) -> None:
    """Measure on the cluster that `make cluster-up` started; resultsfs is installed for it and taken away again."""
    cluster = places(instance)
    if not cluster.kubeconfig.exists():
        raise click.ClickException("the cluster is not up: make cluster-up")
    facts = machine.describe(cluster.home)
    load([recipes.project()], Cluster(cluster).ctr())
    loads = [_load()]
    with Kube(cluster.kubeconfig) as kube, installed(Cluster(cluster), kube):
        usage = Usage(cluster)
        with Room(kube, "bench-stock") as stock, Room(kube, "bench-resultsfs", {LABEL: "true"}) as ours:
            starts = _starts(kube, stock, ours, usage, repeat)
        loads.append(_load())
        stored = _stored(kube, Etcd(cluster), usage, repeat)
        memory = usage.memory()
    loads.append(_load())
    click.echo(f"load average before, between and after: {', '.join(f'{load:.1f}' for load in loads)}")
    _show_starts(starts)
    _show_stored(stored, repeat)
    _show_usage(usage, memory)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "machine": facts,
            "loads": loads,
            "starts": starts,
            "etcd": stored,
            "cpu": usage.burnt,
            "memory": memory,
        }
        output.write_text(json.dumps(found, indent=1))


def _load() -> float:
    return float(Path("/proc/loadavg").read_text().split()[0])


def _show_starts(starts: Samples) -> None:
    for figure, modes in starts.items():
        for mode, samples in modes.items():
            spread = Spread.of(samples)
            bounds = f"({spread.low:.2f} to {spread.high:.2f}; {len(samples)} samples)"
            click.echo(f"{f'{mode}: {figure}':55} {spread.median:6.2f} s {bounds}")
        added = statistics.median(modes[OURS]) - statistics.median(modes[STOCK])
        verdict = "reached" if added < MOST_ADDED else "MISSED"
        click.echo(
            f"{f'resultsfs adds: {figure}':55} {added * 1000:6.0f} ms (target: below {MOST_ADDED * 1000:.0f}; {verdict})"
        )


def _show_stored(stored: Stored, repeat: int) -> None:
    click.echo(f"etcd, {repeat} PipelineRuns with {len(_NAMES)} results:")
    for way, found in stored.items():
        for resource, size in found.items():
            click.echo(f"{f'{way}: {resource}':55} {size:12,d} bytes")
    plain, sidecar, ours = (sum(found[name] for name in _RESULTS_ARE_IN) for found in stored.values())
    ratio = (sidecar - plain) / max(ours - plain, 1)
    verdict = "reached" if ratio >= LEAST_SAVED else "MISSED"
    click.echo(f"runs' bytes beyond those of runs with results of 1 byte: {sidecar - plain:,d} and {ours - plain:,d}")
    click.echo(f"sidecar-logs takes {ratio:.0f} times resultsfs (target: {LEAST_SAVED}; {verdict})")


def _show_usage(usage: Usage, memory: dict[str, dict[str, int]]) -> None:
    for work, programs in usage.burnt.items():
        for program, samples in programs.items():
            milliseconds = statistics.fmean(samples) * 1000
            click.echo(f"{f'{program}: CPU for {work}':55} {milliseconds:6.1f} ms (mean)")
    for program, found in memory.items():
        resident, peak = found[RESIDENT] / 1e6, found[PEAK] / 1e6
        click.echo(f"{f'{program}: memory':55} {resident:6.1f} MB resident in the end, {peak:.1f} MB at the most")


def _starts(kube: Kube, stock: Room, ours: Room, usage: Usage, repeat: int) -> Samples:
    """Seconds from a TaskRun's creation to its first step's command, and to its end, one TaskRun at a time.

    Stock Tekton and resultsfs alternate; the first of each turn shares the machine with the change and is not counted.
    """
    samples: Samples = {figure: defaultdict(list) for figure in (_RUNNING, _COMPLETED)}
    for turn in range(_ROUNDS):
        for number in range(-1, _share(repeat, turn)):
            pair = [(STOCK, stock), (OURS, ours)]
            for mode, room in pair if number % 2 else reversed(pair):
                with usage.of(_SMALL if mode == OURS and number >= 0 else ""):
                    _timed(room, mode, f"{turn}-{number + 1}", samples if number >= 0 else None)
        with feature_flags(kube, stock, **_SIDECAR_FLAGS):
            for number in range(-1, _share(repeat, turn)):
                _timed(stock, SIDECAR, f"{turn}-{number + 1}", samples if number >= 0 else None)
    return samples


def _timed(room: Room, mode: str, number: str, samples: Samples | None) -> None:
    time.sleep(random.random() * _RELIST)
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    run = room.run(taskrun(f"{mode}-{number}", ["began"], step=_UPTIME))
    ended = time.clock_gettime(time.CLOCK_BOOTTIME)
    if not succeeded(run):
        raise click.ClickException(f"{mode}-{number}: {outcome(run)['message']}")
    if (room.drivers(run["status"]["podName"]) != []) != (mode == OURS):
        raise click.ClickException(f"{mode}-{number}: its pod is not what it should be")
    if samples is not None:
        samples[_RUNNING][mode].append(float(results(run)["began"]) - began)
        samples[_COMPLETED][mode].append(ended - began)


def _share(repeat: int, turn: int) -> int:
    return repeat // _ROUNDS + (turn < repeat % _ROUNDS)


def _stored(kube: Kube, etcd: Etcd, usage: Usage, repeat: int) -> Stored:
    """Bytes in etcd for PipelineRuns of one task with three results, which are results of the pipeline too."""
    with Room(kube, "bench-plain") as room:
        plain = _put(room, etcd, repeat, 1, 1)
    with Room(kube, "bench-sidecar") as room, feature_flags(kube, room, **_SIDECAR_FLAGS):
        sidecar = _put(room, etcd, repeat, _SIZE, _SIZE)
    with Room(kube, "bench-large", {LABEL: "true"}) as room, usage.of(_LARGE, repeat):
        ours = _put(room, etcd, repeat, _SIZE, LENGTH)
    return {"1 byte, termination-message": plain, "100 KB, sidecar-logs": sidecar, "100 KB, resultsfs": ours}


def _put(room: Room, etcd: Etcd, repeat: int, size: int, shown: int) -> dict[str, int]:
    """What PipelineRuns with results of `size` bytes, which are `shown` bytes in status, leave in etcd."""
    before, written = etcd.objects(room.name), etcd.written()
    runs = [room.start(_pipelinerun(f"run-{number}", size)) for number in range(repeat)]
    for run in runs:
        ended = room.end(run, deadline=900)
        if not succeeded(ended) or {len(value) for value in results(ended).values()} != {shown}:
            raise click.ClickException(f"{run['metadata']['name']}: {outcome(ended)['message']}")
    after = etcd.objects(room.name)
    added: Mapping[str, int] = {resource: after[resource] - before[resource] for resource in sorted(after)}
    found = {resource: size for resource, size in added.items() if size}
    found["all objects"] = sum(added.values())
    found["written to etcd meanwhile"] = etcd.written() - written
    return found


def _pipelinerun(name: str, size: int) -> Manifest:
    script = "; ".join(f"head -c {size} /dev/zero | tr '\\0' x > $(results.{result}.path)" for result in _NAMES)
    produce = {"name": "produce", "taskSpec": task(list(_NAMES), write=script)}
    declared = [{"name": result, "value": f"$(tasks.produce.results.{result})"} for result in _NAMES]
    return {
        "apiVersion": PIPELINERUN.api_version,
        "kind": PIPELINERUN.kind,
        "metadata": {"name": name},
        "spec": {"pipelineSpec": {"tasks": [produce], "results": declared}},
    }


if __name__ == "__main__":
    main()
