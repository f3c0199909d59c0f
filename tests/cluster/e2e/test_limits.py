"""Results at the limits: the strictest Pod Security, many results in many steps, large ones, an end in the middle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from resultsfs.reference import Reference
from tests.cluster.flags import feature_flags
from tests.cluster.images import recipes
from tests.cluster.installation import LABEL, STORE, Installation
from tests.cluster.kube import POD, TASKRUN, Kube, Manifest
from tests.cluster.room import Room, outcome, results, succeeded, taskrun
from tests.cluster.test_results import DEADLINE, LARGE, fill, sha256
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

_RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
_SIZES = (10, 20, 30, 5_000, 50_000)
"""Of one step's results. Tekton starts a step before the one before it has collected, whose message then carries what both
wrote: these fit twice into the 1024 bytes that a message of twelve containers may have."""
_REFUSED = re.compile(r'^resultsfs_errors_total\{cause="StoreRefused"\} ([0-9.e+]+)$', re.MULTILINE)


@pytest.fixture
def restricted(kube: Kube, hall: Room) -> Iterator[Room]:
    """A namespace that enforces Pod Security's level `restricted`, with Tekton's own containers made to fit it."""
    flags = {"set_security_context": "true", "set_security_context_read_only_root_filesystem": "true"}
    with feature_flags(kube, hall, **flags), Room(kube, "t-restricted", {LABEL: "true", **_RESTRICTED}) as room:
        yield room


@pytest.mark.parametrize("mode", ["termination-message", "sidecar-logs"])
def test_restricted_with_a_read_only_root(kube: Kube, hall: Room, restricted: Room, mode: str) -> None:
    """Pods that Pod Security's strictest level admits, none of whose containers can write to its root, have results."""
    run = taskrun(
        "restricted",
        ["small", "large"],
        write=f"printf hello > $(results.small.path); {fill('large', LARGE)}; ! touch /refused",
        read="sha256sum < $(results.large.path)",
    )
    for step in run["spec"]["taskSpec"]["steps"]:
        step["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    user = {"runAsNonRoot": True, "runAsUser": 1001, "seccompProfile": {"type": "RuntimeDefault"}}
    run["spec"]["podTemplate"] = {"securityContext": user}
    with feature_flags(kube, hall, results_from=mode):
        run = restricted.run(run, deadline=DEADLINE)
    assert succeeded(run), outcome(run)
    assert restricted.drivers(run["status"]["podName"]) == ["csi.resultsfs.dev"]
    pod = kube.get(POD, run["status"]["podName"], restricted.name)
    containers = pod["spec"]["containers"] + pod["spec"]["initContainers"]
    assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in containers)
    found = results(run)
    assert found["small"] == "hello"
    reference = Reference.match(found["large"])
    assert reference is not None
    assert restricted.log(run, "read").split() == [sha256(LARGE), "-"] == [reference.sha256, "-"]


def test_sixty_results_of_twelve_steps(hall: Room) -> None:
    """Results of 10 bytes to 50 KB, five in each of twelve steps: all are in status, itself or by a right reference."""
    steps = {
        f"s{number}": "; ".join(fill(f"s{number}-{size}", size, "abcdefghijkl"[number]) for size in _SIZES)
        for number in range(12)
    }
    names = [f"{step}-{size}" for step in steps for size in _SIZES]
    run = hall.run(taskrun("sixty", names, **steps), deadline=DEADLINE)
    assert succeeded(run), outcome(run)
    found = results(run)
    assert sorted(found) == sorted(names)
    for number, step in enumerate(steps):
        letter = "abcdefghijkl"[number]
        for size in _SIZES:
            value = found[f"{step}-{size}"]
            reference = Reference.match(value)
            assert value == letter * size if reference is None else reference.sha256 == sha256(size, letter)
        assert found[f"{step}-10"] == letter * 10


def test_a_taskrun_cancelled_while_it_spills(resultsfs: Installation, refusing: Room) -> None:
    """The store takes nothing and the collector waits for it: cancelled then, nothing is left of the pod on the node."""
    before = _refused(resultsfs)
    run = refusing.start(taskrun("cancelled", ["large"], write=fill("large", LARGE)))
    eventually(lambda: _refused(resultsfs) > before, DEADLINE)
    run = refusing.kube.get(TASKRUN, "cancelled", refusing.name)
    pod = refusing.kube.get(POD, run["status"]["podName"], refusing.name)
    assert [line for line in resultsfs.mounts() if pod["metadata"]["uid"] in line]
    refusing.kube.patch(TASKRUN, "cancelled", {"spec": {"status": "TaskRunCancelled"}}, refusing.name)
    run = refusing.end(run, deadline=DEADLINE)
    assert outcome(run)["reason"] == "TaskRunCancelled"
    assert results(run) == {}
    _told_why(refusing, "cancelled")
    _gone(resultsfs, refusing, pod)


def _refused(resultsfs: Installation) -> float:
    """How often the store has refused the node's mounter."""
    (pod,) = resultsfs.pods("node")
    with urlopen(f"http://{pod['status']['podIP']}:9811/metrics", timeout=60) as answer:
        found = _REFUSED.search(answer.read().decode())
    return float(found[1]) if found else 0.0


@pytest.fixture
def refusing(resultsfs: Installation, ours: Room) -> Iterator[Room]:
    """A namespace for which the store takes nothing: where its directory would be there is a file."""
    place = f"{STORE}/{ours.name}"
    resultsfs.node("mkdir", "-p", STORE)
    resultsfs.node("touch", place)
    try:
        yield ours
    finally:
        resultsfs.node("rm", "-rf", place)


def _told_why(room: Room, name: str) -> None:
    """An Event on the TaskRun says that it waited for the store, and what is wrong with that."""
    for word in ("StoreFailing", "uploading to the store fails", f"{room.name}"):
        eventually(lambda: word in room.told(name), 60)  # noqa: B023


def _gone(resultsfs: Installation, room: Room, pod: Manifest) -> None:
    """Nothing is left of a pod on the node once it is deleted: no mount, no directory, no spool."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    room.kube.delete(POD, name, room.name)
    room.kube.wait_gone(POD, name, room.name, deadline=DEADLINE)
    eventually(lambda: not [line for line in resultsfs.mounts() if uid in line], DEADLINE)
    eventually(lambda: uid not in resultsfs.node("ls", "/var/lib/kubelet/pods"), DEADLINE)
    eventually(lambda: not [volume for volume in resultsfs.volumes() if uid in volume], DEADLINE)


def test_a_taskrun_times_out_while_it_spills(resultsfs: Installation, refusing: Room) -> None:
    """As Tekton says it: TaskRunTimeout, no results; and nothing is left of the pod on the node."""
    before = _refused(resultsfs)
    made = taskrun("late", ["large"], write=fill("large", LARGE))
    made["spec"]["timeout"] = "30s"
    run = refusing.start(made)
    run = refusing.wait(TASKRUN, "late", lambda found: "podName" in found.get("status", {}), what="a pod")
    pod = refusing.kube.get(POD, run["status"]["podName"], refusing.name)
    run = refusing.end(run, deadline=DEADLINE)
    assert outcome(run)["reason"] == "TaskRunTimeout"
    assert results(run) == {}
    _told_why(refusing, "late")
    assert _refused(resultsfs) > before
    _gone(resultsfs, refusing, pod)


_GREEDY = """
kept = []
with open("$(results.small.path)", "w") as file:
    file.write("early")
with open("$(results.large.path)", "wb", buffering=0) as file:
    while True:
        kept.append(b"x" * (1 << 20))
        file.write(kept[-1])
"""


def test_a_step_is_killed_for_its_memory_while_it_writes(resultsfs: Installation, hall: Room) -> None:
    """It fails as in stock Tekton, by OOMKilled, and what it had written is the result; the steps after are skipped."""
    made = taskrun("killed", ["small", "large"], write="", after="true")
    made["spec"]["taskSpec"]["steps"][0] |= {
        "image": recipes.python().reference,
        "command": ["python3", "-c", _GREEDY],
        "computeResources": {"limits": {"memory": "64Mi"}},
    }
    run = hall.run(made, deadline=DEADLINE)
    assert outcome(run)["reason"] == "StepOOM", outcome(run)
    assert "OOMKilled" in outcome(run)["message"]
    states = {step["name"]: step.get("terminationReason") for step in run["status"]["steps"]}
    assert states["write"] == "OOMKilled"
    assert states["after"] in ("Skipped", None)  # Tekton may be done before the step that it skips has ended
    eventually(lambda: "Skipping step" in hall.log(run, "after"), DEADLINE)
    found = results(run)
    assert found["small"] == "early"
    reference = Reference.match(found["large"])
    assert reference is not None
    place = f"{STORE}/{hall.name}/{run['metadata']['uid']}/{reference.sha256}"
    size = int(resultsfs.node("stat", "--format=%s", place))
    assert size > 1 << 20
    assert reference.sha256 == sha256(size)
    _gone(resultsfs, hall, hall.kube.get(POD, run["status"]["podName"], hall.name))


_MANY = 50


def test_fifty_taskruns_at_once(resultsfs: Installation, hall: Room) -> None:
    """Each has its own results, small and large, and none another's."""
    size = {number: LARGE + number for number in range(_MANY)}
    begun = {
        number: hall.start(
            taskrun(
                f"many-{number}",
                ["small", "large"],
                write=f"printf {number} > $(results.small.path); {fill('large', size[number])}",
            )
        )
        for number in range(_MANY)
    }
    for number, started in begun.items():
        run = hall.end(started, deadline=DEADLINE * 2)
        assert succeeded(run), outcome(run)
        found = results(run)
        assert found["small"] == str(number)
        reference = Reference.match(found["large"])
        assert reference is not None
        assert (reference.sha256, str(reference.run)) == (sha256(size[number]), run["metadata"]["uid"])
        assert hall.drivers(run["status"]["podName"]) == ["csi.resultsfs.dev"]
