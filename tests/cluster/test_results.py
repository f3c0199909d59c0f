"""What a TaskRun's results are on resultsfs: in its status, in its later steps, in both ways that Tekton collects them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from uuid import UUID, uuid4

import pytest

from resultsfs.reference import Reference
from tests.cluster.flags import feature_flags
from tests.cluster.images import recipes
from tests.cluster.installation import HANDWRITTEN, STORE, Installation
from tests.cluster.kube import POD, Kube, Manifest
from tests.cluster.room import Room, outcome, results, succeeded, taskrun

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

DEADLINE = 600.0
LARGE = 40_000
_TWELVE = [f"r{number}" for number in range(12)]


def fill(result: str, size: int, letter: str = "x") -> str:
    """A script that writes a result of so many bytes, of one letter."""
    return f"head -c {size} /dev/zero | tr '\\0' {letter} > $(results.{result}.path)"


def sha256(size: int, letter: str = "x") -> str:
    """The SHA-256, in hex, of what `fill` writes."""
    return hashlib.sha256(letter.encode() * size).hexdigest()


class Begun:
    """The module's TaskRuns by name, which all run at once, and how their results are collected."""

    def __init__(self, hall: Room, mode: str) -> None:
        self._hall, self.mode = hall, mode
        self._started = {name: hall.start(made) for name, made in _taskruns(mode).items()}

    def ended(self, name: str) -> Manifest:
        """A TaskRun when it has ended."""
        return self._hall.end(self._started[name], deadline=DEADLINE)


def _taskruns(mode: str) -> dict[str, Manifest]:
    steps = {
        "write": f"printf 'hello\\n' > $(results.small.path); {fill('large', LARGE)}",
        "read": "id -u; cat $(results.small.path); sha256sum < $(results.large.path)",
    }
    found = {
        "root": taskrun("", ["small", "large"], **steps),
        "nonroot": taskrun("", ["small", "large"], **steps),
        "five": taskrun("", ["report"], write=fill("report", 5000)),
        "twelve": taskrun("", _TWELVE, **{f"step_{name}": fill(name, 100) for name in _TWELVE}),
    }
    user = {"runAsNonRoot": True, "runAsUser": 1001, "runAsGroup": 1001}
    found["nonroot"]["spec"]["podTemplate"] = {"securityContext": user}
    for name, made in found.items():
        made["metadata"] = {"name": f"{name}-{mode}"}
    return found


@pytest.fixture(scope="module", params=["termination-message", "sidecar-logs"])
def begun(request: pytest.FixtureRequest, kube: Kube, hall: Room) -> Iterator[Begun]:
    """All TaskRuns of this module, with one setting of `results-from`."""
    default = request.param == "termination-message"
    with nullcontext() if default else feature_flags(kube, hall, results_from=request.param):
        yield Begun(hall, request.param)


@pytest.mark.parametrize(("name", "user"), [("root", "0"), ("nonroot", "1001")])
def test_small_inline_large_by_reference(
    begun: Begun, hall: Room, resultsfs: Installation, name: str, user: str
) -> None:
    """Status has the small result itself and a reference to the large one, which is in the store; a later step reads all."""
    run = begun.ended(name)
    assert succeeded(run), outcome(run)
    assert run["status"]["provenance"]["featureFlags"]["resultExtractionMethod"] == begun.mode
    assert hall.drivers(run["status"]["podName"]) == ["csi.resultsfs.dev"]
    found = results(run)
    assert found["small"] == "hello\n"
    assert found["large"] == str(Reference.of(_uid(run), sha256(LARGE)))
    assert hall.log(run, "read").split() == [user, "hello", sha256(LARGE), "-"]
    stored = resultsfs.node("sha256sum", f"{STORE}/{hall.name}/{_uid(run)}/{sha256(LARGE)}")
    assert stored.split()[0] == sha256(LARGE)


def _uid(run: Manifest) -> UUID:
    return UUID(run["metadata"]["uid"])


def test_five_kilobytes_succeed(begun: Begun) -> None:
    """What ends a TaskRun in stock Tekton, a result of 5 KB, is a reference here."""
    run = begun.ended("five")
    assert succeeded(run), outcome(run)
    assert results(run) == {"report": str(Reference.of(_uid(run), sha256(5000)))}


def test_twelve_steps_lose_nothing(begun: Begun) -> None:
    """The pod of many containers whose messages the kubelet cuts in stock Tekton: each result is there, and whole."""
    run = begun.ended("twelve")
    assert succeeded(run), outcome(run)
    assert results(run) == dict.fromkeys(_TWELVE, "x" * 100)


@pytest.mark.parametrize("where", ["Task", "podTemplate"])
def test_a_volume_of_the_driver_s_is_not_for_the_asking(ours: Room, where: str) -> None:
    """A Task, or a podTemplate, that names a volume with another TaskRun's attributes gets no pod, and is told why."""
    attributes = {"results": "a", "taskrun": "another", "run-uid": str(uuid4())}
    stolen = {"name": "stolen", "csi": {"driver": "csi.resultsfs.dev", "volumeAttributes": attributes}}
    run = taskrun("steals", ["a"], write="printf x > $(results.a.path)")
    if where == "Task":
        run["spec"]["taskSpec"]["volumes"] = [stolen]
    else:
        run["spec"]["podTemplate"] = {"volumes": [stolen]}
    run = ours.run(run, deadline=DEADLINE)
    assert not succeeded(run)
    assert "names itself (stolen)" in outcome(run)["message"]


def test_a_hand_written_pod_has_results(kube: Kube, resultsfs: Installation) -> None:
    """In a namespace labelled for it, a pod that names the volume itself gets a /tekton/results that its containers share."""
    mount = {
        "volumeMounts": [{"name": "results", "mountPath": "/tekton/results"}],
        "image": recipes.busybox().reference,
    }
    write = "head -c 100000 /dev/zero | tr '\\0' x > /tekton/results/report"
    read = "sha256sum < /tekton/results/report; grep ' /tekton/results ' /proc/mounts"
    attributes = {"results": "report", "taskrun": "none", "run-uid": str(uuid4())}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "handwritten"},
        "spec": {
            "restartPolicy": "Never",
            "initContainers": [{"name": "write", "command": ["sh", "-ec", write], **mount}],
            "containers": [{"name": "read", "command": ["sh", "-ec", read], **mount}],
            "volumes": [{"name": "results", "csi": {"driver": "csi.resultsfs.dev", "volumeAttributes": attributes}}],
        },
    }
    with Room(kube, "t-handwritten", {HANDWRITTEN: "true"}) as room:
        room.start(pod)
        ended = room.wait(POD, "handwritten", lambda found: found["status"].get("phase") in ("Succeeded", "Failed"))
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        printed = kube.logs("handwritten", room.name, "read").split()
        assert printed[0] == sha256(100_000)
        assert "fuse.resultsfs" in printed
