"""PipelineRuns all the time: a namespace whose work goes on, whatever is done to the cluster under it.

Each has small results, one of which decides a `when`, a large one that is put back into a param, and one of some MiB,
written over seconds through one open file, that another pod reads by its path, as slowly. Random contents; SHA-256s are
taken of copies that never were on resultsfs.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from kubernetes.dynamic.exceptions import ApiException, NotFoundError
from urllib3.exceptions import HTTPError

from resultsfs.reference import Reference
from tests.cluster.kube import PIPELINERUN, POD, Kube, Manifest
from tests.cluster.room import ENDED, Room, outcome, results, succeeded, task
from tests.cluster.test_pipelines import pipelinerun

AT_ONCE = 2
"""PipelineRuns that run at any moment; more only wait for each other on two cores."""
DEADLINE = 900.0
"""Seconds; only a broken cluster ever reaches it."""
_RETRIES = 2
"""Whether an attempt failed is judged, not hidden: see `Verdict.again`."""
_PAUSE = 1.0
_TEXT = 30_000
_BLOCKS, _BLOCK = 8, 1_200_000
"""Together more than one part of an upload."""
_RESULTS = ("small", "large", "large-sum", "big", "big-sum")
_TASKS = {"make", "use", "path"}
_LOST = {"ContainerStatusUnknown", "StartError", "Unknown"}
"""What the kubelet and containerd say of a container that they lost or could not start."""

_WRITE = f"""
printf yes > $(results.small.path)
head -c {_TEXT} /dev/urandom | base64 > /tmp/large
cp /tmp/large $(results.large.path)
sha256sum < /tmp/large | head -c 64 > $(results.large-sum.path)
for block in $(seq {_BLOCKS}); do head -c {_BLOCK} /dev/urandom; sleep 0.3; done | tee /tmp/big > $(results.big.path)
sha256sum < /tmp/big | head -c 64 > $(results.big-sum.path)
"""
_AGAIN = 'test "$(sha256sum < $(results.big.path) | head -c 64)" = "$(cat $(results.big-sum.path))"'
_USE = 'printf %s "$VALUE" | sha256sum | head -c 64 > $(results.seen.path); test "$(cat $(results.seen.path))" = "$SUM"'
_READ = """
{ dd bs=1048576 count=3; sleep 2; cat; } < "$VALUE" | sha256sum | head -c 64 > $(results.seen.path)
test "$(cat $(results.seen.path))" = "$SUM"
"""


@dataclass(frozen=True)
class Verdict:
    """What became of a PipelineRun."""

    wrong: str
    """Empty if it is as it should be."""
    again: tuple[str, ...]
    """Attempts of its TaskRuns that failed, and were tried again, as in stock Tekton they would have."""


def run_of(name: str) -> Manifest:
    """One PipelineRun."""
    decide = {"input": "$(tasks.make.results.small)", "operator": "in"}
    return pipelinerun(
        name,
        {"name": "make", "retries": _RETRIES, "taskSpec": task([*_RESULTS], write=_WRITE, again=_AGAIN)},
        _consumer("use", "large", _USE, when=[{**decide, "values": ["yes"]}]),
        _consumer("never", "large", "exit 1", when=[{**decide, "values": ["no"]}]),
        _consumer("path", "big", _READ),
        results=[
            *({"name": result, "value": f"$(tasks.make.results.{result})"} for result in _RESULTS),
            *({"name": f"{result}-seen", "value": f"$(tasks.{result}.results.seen)"} for result in ("use", "path")),
        ],
    )


def _consumer(name: str, result: str, script: str, **more: object) -> Manifest:
    spec = task(["seen"], read=script)
    names = ("value", "sum")
    spec["params"] = [{"name": param} for param in names]
    spec["steps"][0]["env"] = [{"name": param.upper(), "value": f"$(params.{param})"} for param in names]
    if name == "path":
        spec["metadata"] = {"annotations": {"resultsfs.dev/params-as-path": "true"}}
    values = (f"$(tasks.make.results.{result})", f"$(tasks.make.results.{result}-sum)")
    params = [{"name": param, "value": value} for param, value in zip(names, values, strict=True)]
    return {"name": name, "retries": _RETRIES, "params": params, "taskSpec": spec, **more}


def judge(room: Room, run: Manifest) -> Verdict:
    """Whether an ended PipelineRun is as it should be."""
    made = room.taskruns(run)
    again, unexcused = [], []
    for name, taskrun in made.items():
        for attempt in taskrun["status"].get("retriesStatus", []):
            message = outcome({"status": attempt})["message"]
            again.append(f"{run['metadata']['name']}/{name}, pod {attempt.get('podName')}: {message}")
            if not _is_excused(room, attempt.get("podName", "")):
                unexcused.append(again[-1])
    wrong = _wrong(run, set(made)) or "; ".join(unexcused)
    return Verdict(wrong, tuple(again))


def _is_excused(room: Room, name: str) -> bool:
    """Whether stock Tekton's attempt would have failed, too: the API server was not there to create its pod, the pod was
    evicted, it is one of stock Tekton (admission did not answer), or the node lost a container of it.
    """
    if not name:
        return True
    try:
        pod = room.kube.get(POD, name, room.name)
    except NotFoundError:
        return True
    if "deletionTimestamp" in pod["metadata"] or not any("csi" in volume for volume in pod["spec"]["volumes"]):
        return True
    status = pod["status"]
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return any(found["state"].get("terminated", {}).get("reason") in _LOST for found in containers)


def _wrong(run: Manifest, made: set[str]) -> str:
    if not succeeded(run):
        return f"{outcome(run)['reason']}: {outcome(run)['message']}"
    if made != _TASKS:
        return f"its TaskRuns are {sorted(made)}"
    found = results(run)
    if found.get("small") != "yes":
        return f"its results are {found}"
    for result, seen in (("large", "use-seen"), ("big", "path-seen")):
        reference = Reference.match(found[result])
        digests = {reference.sha256 if reference else found[result], found[f"{result}-sum"], found[seen]}
        if len(digests) != 1:
            return f"{result} has several SHA-256s: {digests}"
    return ""


class Traffic:
    """Keeps PipelineRuns running in a namespace, from a thread of its own, and judges each that ends.

    Those that are as they should be are deleted at once, as a cluster's pruner does.
    """

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self._kubeconfig, self._namespace = kubeconfig, namespace
        self._changed = threading.Condition()
        self._open: set[str] = set()
        self._finished: set[str] = set()
        self._verdicts: dict[str, Verdict] = {}
        self._started = 0
        self._closing = False
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._unreachable = ""
        self._thread = threading.Thread(target=self._run, name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def unfinished(self) -> set[str]:
        """The PipelineRuns that have not ended, or still wait to be deleted."""
        with self._changed:
            return self._open | self._finished

    def judged(self) -> set[str]:
        """The PipelineRuns that have ended."""
        with self._changed:
            return set(self._verdicts)

    def settled(self, more: int = AT_ONCE) -> dict[str, Verdict]:
        """All verdicts, once everything that runs now has ended, and so many that were started after now.

        Raises AssertionError when one is not as it should be, and after the deadline.
        """
        with self._changed:
            wanted = {f"run-{number}" for number in range(1, self._started + more + 1)}
        return self._await(wanted)

    def close(self) -> dict[str, Verdict]:
        """Start none any more, and return all verdicts when all have ended. Raises as `settled`."""
        with self._changed:
            self._closing = True
            wanted = {f"run-{number}" for number in range(1, self._started + 1)}
        found = self._await(wanted)
        self._ended.set()
        self._thread.join()
        return found

    def _await(self, wanted: set[str]) -> dict[str, Verdict]:
        def done() -> bool:
            gone = wanted <= set(self._verdicts) and not wanted & self._finished
            return gone or bool(self._wrong()) or self._failure is not None

        with self._changed:
            if not self._changed.wait_for(done, DEADLINE):
                missing = sorted(wanted - set(self._verdicts))
                raise AssertionError(
                    f"{missing} did not end, {sorted(self._finished)} could not be deleted "
                    f"within {DEADLINE:.0f} s; the API's last failure: {self._unreachable or 'none'}"
                )
            if self._failure is not None:
                raise AssertionError(f"no PipelineRuns are started any more: {self._failure!r}") from self._failure
            assert not self._wrong()
            return dict(self._verdicts)

    def _wrong(self) -> dict[str, str]:
        return {name: verdict.wrong for name, verdict in self._verdicts.items() if verdict.wrong}

    def _run(self) -> None:
        try:
            with Kube(self._kubeconfig) as kube:
                room = Room(kube, self._namespace)
                while not self._ended.wait(_PAUSE):
                    try:
                        self._round(room)
                    except (ApiException, HTTPError) as error:
                        if isinstance(error, ApiException) and not _passes(error):
                            raise
                        self._unreachable = str(error)
        except BaseException as error:  # noqa: BLE001  # told to whoever waits
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _round(self, room: Room) -> None:
        runs = {run["metadata"]["name"]: run for run in room.kube.list(PIPELINERUN, room.name)}
        for name in self._wanted():
            if name not in runs:
                self._start(room, name)
            elif ENDED(runs[name]):
                verdict = judge(room, runs[name])
                with self._changed:
                    self._verdicts[name] = verdict
                    self._open.discard(name)
                    if not verdict.wrong:
                        self._finished.add(name)
                    self._changed.notify_all()
        for name in sorted(self._finished):
            room.kube.delete(PIPELINERUN, name, room.name)
            with self._changed:
                self._finished.discard(name)
                self._changed.notify_all()

    def _wanted(self) -> list[str]:
        with self._changed:
            while len(self._open) < AT_ONCE and not self._closing:
                self._started += 1
                self._open.add(f"run-{self._started}")
            return sorted(self._open)

    def _start(self, room: Room, name: str) -> None:
        try:
            room.start(run_of(name))
        except ApiException as error:
            if error.status != 409:  # an answer that did not arrive: it is there
                raise


def _passes(error: ApiException) -> bool:
    """Whether an API server says so that is just starting, or whose webhooks are."""
    return error.status in (0, 401, 403, 429) or error.status >= 500
