"""What results of past TaskRuns weigh in etcd, and what resultsfs would have made of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from controller.kube.client import Kube
from controller.kube.errors import ApiError
from controller.kube.resources import TASK_RUNS, Resource, Tree
from resultsfs import message
from resultsfs.local.model import value_of
from resultsfs.reference import LENGTH
from resultsfs.value import encoded, references

THRESHOLDS = (256, 512, 1024, 2048, 4096)
"""Bytes."""
_PODS = Resource("", "v1", "pods", "Pod")
_TOO_LARGE = "TaskRunResultLargerThanAllowedLimit"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """A TaskRun that failed because of its results' size, and how that is known."""

    namespace: str
    name: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Spilling:
    """A TaskRun that would have spilled, at the thresholds (bytes) named; `largest` of its results, in bytes."""

    namespace: str
    name: str
    largest: int
    thresholds: tuple[int, ...]


@dataclass(slots=True)
class Threshold:
    """What a threshold (bytes) would have done: TaskRuns and results spilled, bytes of etcd saved.

    Only the TaskRuns' own status is counted; what pipelines copied from it comes on top.
    """

    threshold: int
    task_runs: int = 0
    results: int = 0
    saved: int = 0


@dataclass(slots=True)
class Advice:
    """All of it. `bytes` are those of results in the status of TaskRuns; `spilled` of these are references already.

    `spilling` begins with the TaskRun whose result is the largest.
    """

    task_runs: int = 0
    results: int = 0
    bytes: int = 0
    spilled: int = 0
    largest: int = 0
    thresholds: list[Threshold] = field(default_factory=list)
    spilling: list[Spilling] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    without_results: list[str] = field(default_factory=list)

    def as_object(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def advise(kube: Kube, namespace: str | None, thresholds: Sequence[int] = THRESHOLDS) -> Advice:
    """Look at all TaskRuns of a namespace, or of all. Raises ApiError."""
    advice = Advice(thresholds=[Threshold(size) for size in sorted(thresholds)])
    for page in kube.pages(TASK_RUNS, namespace):
        for run in page.items:
            _weigh(run, advice)
            if (failure := _failure(kube, run)) is not None:
                advice.failures.append(failure)
            if _lost(run):
                advice.without_results.append(f"{run['metadata']['namespace']}/{run['metadata']['name']}")
    advice.spilling.sort(key=lambda one: (-one.largest, one.namespace, one.name))
    return advice


def _sizes(run: Tree, advice: Advice) -> Iterator[int]:
    for result in (run.get("status") or {}).get("results") or ():
        value = value_of(result.get("value"))
        size = len(encoded(value))
        advice.results += 1
        advice.bytes += size
        advice.spilled += bool(references(value))
        advice.largest = max(advice.largest, size)
        if not references(value):
            yield size


def _weigh(run: Tree, advice: Advice) -> None:
    advice.task_runs += 1
    sizes = [size for size in _sizes(run, advice) if size > LENGTH]  # what is shorter is never spilled
    at = tuple(one.threshold for one in advice.thresholds if any(size > one.threshold for size in sizes))
    if at:
        advice.spilling.append(Spilling(run["metadata"]["namespace"], run["metadata"]["name"], max(sizes), at))
    for threshold in advice.thresholds:
        spilled = [size for size in sizes if size > threshold.threshold]
        threshold.task_runs += bool(spilled)
        threshold.results += len(spilled)
        threshold.saved += sum(size - LENGTH for size in spilled)


def _failure(kube: Kube, run: Tree) -> Failure | None:
    status = run.get("status") or {}
    condition = _condition(status)
    if condition.get("status") != "False":
        return None
    namespace, name = run["metadata"]["namespace"], run["metadata"]["name"]
    if condition.get("reason") == _TOO_LARGE:
        return Failure(namespace, name, _TOO_LARGE)
    for step in status.get("steps") or ():
        terminated = step.get("terminated") or {}
        # The entrypoint ends with 1 when its message is too long; only the step's log says why, while the pod is there.
        pod, container = status.get("podName"), step.get("container")
        failed = terminated.get("exitCode") == 1 and pod and container
        if failed and message.TOO_LONG in _log_of(kube, namespace, str(pod), str(container)):
            return Failure(namespace, name, f"log of {container}: {message.TOO_LONG}")
    return None


def _condition(status: Tree) -> Tree:
    conditions: list[Tree] = status.get("conditions") or []
    return next((one for one in conditions if one.get("type") == "Succeeded"), {})


def _log_of(kube: Kube, namespace: str, pod: str, container: str) -> str:
    path = _PODS.path(namespace, pod, "log") + f"?container={container}&tailLines=20"
    try:
        return kube.raw(path).decode("utf-8", "replace")
    except ApiError as error:
        _log.info("no log of %s/%s: %s", namespace, pod, error)
        return ""


def _lost(run: Tree) -> bool:
    """Whether a TaskRun succeeded without results that it declares: never written, or cut off by the kubelet."""
    status = run.get("status") or {}
    condition = _condition(status)
    declared = {one["name"] for one in (status.get("taskSpec") or {}).get("results") or () if not one.get("value")}
    found = {one["name"] for one in status.get("results") or ()}
    return condition.get("status") == "True" and bool(declared - found)
