"""`make bench-controller`: what admission adds to a creation, on a real API server. See docs/controller.md.

Creations with the webhooks and without them take turns, one at a time, as dry runs (nothing is stored in etcd); then
200 TaskRuns at once; then the replica's memory. The store is an S3 server on this machine, so a transfer costs little.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.kube.errors import ApiError
from controller.kube.resources import MUTATING_WEBHOOKS, NAMESPACES, PIPELINE_RUNS, TASK_RUNS, Resource, Tree
from resultsfs.reference import Reference
from resultsfs.settings import to_mapping
from resultsfs.store import Key, Store
from tests.controller.apiserver import serving
from tests.controller.replica import Replica, install, running
from tests.support import rclone

ROUNDS = 150
BURST = 200
NAMESPACE = "bench"
OFF = "kubernetes.io/metadata.name"
_PODS = Resource("", "v1", "pods", "Pod")


@dataclass(frozen=True)
class Case:
    """A kind of object, and the most that admission may add to its creation (milliseconds, median)."""

    name: str
    resource: Resource
    tree: Callable[[str], Tree]
    target: float


def main() -> int:
    """Measure and print; 1 when a target is missed."""
    out = Console(width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory(prefix="resultsfs-bench-") as directory:
        home = Path(directory)
        with serving(home / "api") as api:
            kube = Kube(from_kubeconfig(str(api.admin)))
            install(kube)
            # The same objects in a namespace that the webhooks are not asked about.
            for name in (NAMESPACE, "plain"):
                kube.create(NAMESPACES, None, {"metadata": {"name": name}})
            (home / "s3").mkdir()
            os.environ.update(rclone.environment(home / "s3"))
            with rclone.serving(home / "s3") as server:
                settings = server.settings()
                with (
                    contextlib.closing(Store.open(settings)) as store,
                    running(api, home / "replica", to_mapping(settings), webhooks="resultsfs") as replica,
                ):
                    _leave_alone(kube, "plain")
                    good = _latency(kube, store, out)
                    good &= _burst(kube, store, out)
                    good &= _memory(replica, out)
            kube.close()
    return 0 if good else 1


def _leave_alone(kube: Kube, namespace: str) -> None:
    webhooks = kube.get(MUTATING_WEBHOOKS, None, "resultsfs")
    for webhook in webhooks["webhooks"]:
        expression = {"key": OFF, "operator": "NotIn", "values": [namespace]}
        webhook["namespaceSelector"] = {"matchExpressions": [expression]}
    kube.update(MUTATING_WEBHOOKS, None, webhooks)
    time.sleep(1)  # the API server takes it up by a watch


def _latency(kube: Kube, store: Store, out: Console) -> bool:
    table = Table(
        "creation", "without, ms", "with, ms", "added, ms", "95 % of them", "allowed", box=None, pad_edge=False
    )
    good = True
    for case in _cases(kube, store):
        for namespace in ("plain", NAMESPACE) * 5:
            _create(kube, case, namespace)
        taken: dict[str, list[float]] = {"plain": [], NAMESPACE: []}
        for _ in range(ROUNDS):
            for namespace, times in taken.items():
                began = time.perf_counter()
                _create(kube, case, namespace)
                times.append((time.perf_counter() - began) * 1000)
        without, with_ = (statistics.median(times) for times in taken.values())
        pairs = sorted(after - before for before, after in zip(*taken.values(), strict=True))
        added = with_ - without
        good &= added <= case.target
        row = (without, with_, added, pairs[int(len(pairs) * 0.95)])
        table.add_row(
            case.name,
            *(f"{number:.1f}" for number in row),
            f"≤ {case.target:.0f}{'' if added <= case.target else ' MISSED'}",
        )
    out.print(table)
    return good


def _create(kube: Kube, case: Case, namespace: str) -> Tree:
    return kube.post(case.resource.path(namespace) + "?dryRun=All", case.tree(namespace))


def _cases(kube: Kube, store: Store) -> list[Case]:
    owners = {namespace: _owner(kube, namespace) for namespace in (NAMESPACE, "plain")}
    references = {size: _spilled(store, size) for size in (6_000, 80_000)}
    embedded = {"steps": [{"name": "s", "image": "i", "script": "x" * 2000}]}

    def run(value: str, spec: Tree) -> Callable[[str], Tree]:
        return lambda namespace: _task_run(
            {"generateName": "bench-", "ownerReferences": [owners[namespace]["pipeline"]]}, value, spec
        )

    def pod(namespace: str) -> Tree:
        return _pod(owners[namespace]["task"])

    return [
        Case("TaskRun that is not asked about", TASK_RUNS, run("text", {"taskRef": {"name": "t"}}), 10),
        Case("TaskRun, asked about, nothing to do", TASK_RUNS, run("text", {"taskSpec": embedded}), 10),
        Case("TaskRun, 6 kB put back", TASK_RUNS, run(references[6_000], {"taskSpec": embedded}), 30),
        Case("TaskRun, 80 kB put back", TASK_RUNS, run(references[80_000], {"taskSpec": embedded}), 30),
        Case("pod of a TaskRun in a pipeline", _PODS, pod, 30),
    ]


def _owner(kube: Kube, namespace: str) -> dict[str, Tree]:
    tree = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": {"name": "parent"}}
    parent = kube.create(PIPELINE_RUNS, namespace, {**tree, "spec": {"pipelineRef": {"name": "x"}}})
    task = {"name": "make", "when": [{"input": "$(tasks.other.results.a)", "operator": "in", "values": ["x"]}]}
    spec = {"tasks": [{**task, "name": f"task-{number}"} for number in range(50)]}
    kube.merge(PIPELINE_RUNS.path(namespace, "parent", "status"), {"status": {"pipelineSpec": spec}})
    pipeline = _reference(parent)
    metadata = {"name": "owner", "ownerReferences": [pipeline], "labels": {"tekton.dev/pipelineTask": "make"}}
    run = kube.create(TASK_RUNS, namespace, _task_run(metadata, "text", {"taskRef": {"name": "t"}}))
    return {"pipeline": pipeline, "task": _reference(run)}


def _reference(tree: Tree) -> Tree:
    metadata = tree["metadata"]
    found = {"apiVersion": tree["apiVersion"], "kind": tree["kind"], "name": metadata["name"]}
    return {**found, "uid": metadata["uid"], "controller": True}


def _spilled(store: Store, size: int) -> str:
    data = b"x" * size
    reference = Reference.of(uuid4(), hashlib.sha256(data).hexdigest())
    store.put(Key.of(NAMESPACE, reference), lambda: iter([data]), size)
    return str(reference)


def _task_run(metadata: Tree, value: str, spec: Tree) -> Tree:
    params: list[dict[str, Any]] = [{"name": "p", "value": value}]
    return {
        "apiVersion": "tekton.dev/v1",
        "kind": "TaskRun",
        "metadata": metadata,
        "spec": {**spec, "params": params},
    }


def _pod(owner: Tree) -> Tree:
    arguments = ["-results", "a,b,c", "-entrypoint", "sh", "--"]
    step = {"image": "busybox", "command": ["/tekton/bin/entrypoint"], "args": arguments}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "bench-",
            "labels": {"tekton.dev/taskRun": owner["name"]},
            "ownerReferences": [owner],
        },
        "spec": {
            "containers": [{"name": f"step-{number}", **step} for number in range(3)],
            "volumes": [{"name": "tekton-internal-results", "emptyDir": {}}],
        },
    }


def _burst(kube: Kube, store: Store, out: Console) -> bool:
    value = _spilled(store, 6_000)

    def create(number: int) -> bool:
        metadata = {"name": f"burst-{number}"}
        try:
            made = kube.create(TASK_RUNS, NAMESPACE, _task_run(metadata, value, {"taskRef": {"name": "t"}}))
        except ApiError as error:
            out.print(f"not admitted: {error}")
            return False
        return bool(made["spec"]["params"][0]["value"] == "x" * 6_000)

    began = time.perf_counter()
    with ThreadPoolExecutor(BURST) as pool:
        admitted = sum(pool.map(create, range(BURST)))
    took = time.perf_counter() - began
    out.print(f"{BURST} TaskRuns at once: {admitted} admitted with their content, in {took:.1f} s")
    return admitted == BURST


def _memory(replica: Replica, out: Console) -> bool:
    time.sleep(15)  # memory of a burst is given back after some seconds
    size = replica.memory() / 1e6
    out.print(f"memory of the replica after it: {size:.0f} MB (allowed: 100)")
    return size <= 100


if __name__ == "__main__":
    sys.exit(main())
