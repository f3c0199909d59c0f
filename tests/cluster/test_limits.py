"""Results at the limits: the strictest Pod Security, many results in many steps, large ones, an end in the middle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from resultsfs.reference import Reference
from tests.cluster.flags import feature_flags
from tests.cluster.installation import LABEL, STORE, Installation
from tests.cluster.kube import POD, TASKRUN, Kube, Manifest
from tests.cluster.room import Room, outcome, results, succeeded, taskrun
from tests.cluster.test_pipelines import makes, pipelinerun, reading, uses
from tests.cluster.test_results import DEADLINE, LARGE, fill, sha256
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

_RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
_SIZES = (10, 50, 500, 5_000, 50_000)
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


def test_a_taskrun_cancelled_while_it_spills(resultsfs: Installation, ours: Room) -> None:
    """The store takes nothing and the collector waits for it: cancelled then, nothing is left of the pod on the node."""
    place = f"{STORE}/{ours.name}"
    resultsfs.node("mkdir", "-p", STORE)
    resultsfs.node("touch", place)  # a file where the namespace's directory would be
    try:
        before = _refused(resultsfs)
        run = ours.start(taskrun("cancelled", ["large"], write=fill("large", LARGE)))
        eventually(lambda: _refused(resultsfs) > before, DEADLINE)
        run = ours.kube.get(TASKRUN, "cancelled", ours.name)
        name = run["status"]["podName"]
        pod = ours.kube.get(POD, name, ours.name)
        uid = pod["metadata"]["uid"]
        assert [line for line in resultsfs.mounts() if uid in line]
        ours.kube.patch(TASKRUN, "cancelled", {"spec": {"status": "TaskRunCancelled"}}, ours.name)
        run = ours.end(run, deadline=DEADLINE)
        assert outcome(run)["reason"] == "TaskRunCancelled"
        assert results(run) == {}
        ours.kube.wait_gone(POD, name, ours.name, deadline=DEADLINE)
        eventually(lambda: not [line for line in resultsfs.mounts() if uid in line], DEADLINE)
        eventually(lambda: uid not in resultsfs.node("ls", "/var/lib/kubelet/pods"), DEADLINE)
        eventually(lambda: not [volume for volume in resultsfs.volumes() if uid in volume], DEADLINE)
    finally:
        resultsfs.node("rm", "-rf", place)


def _refused(resultsfs: Installation) -> float:
    """How often the store has refused the node's mounter."""
    (pod,) = resultsfs.pods("node")
    with urlopen(f"http://{pod['status']['podIP']}:9811/metrics", timeout=60) as answer:
        found = _REFUSED.search(answer.read().decode())
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("mib", [200, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_large_result_by_path(hall: Room, mib: int) -> None:
    """Random content that no param could hold is read by another pod as a file, and its SHA-256 is the same."""
    run = hall.run(_by_path(mib), deadline=DEADLINE)
    assert succeeded(run), outcome(run)
    runs = hall.taskruns(run)
    found = results(runs["make"])
    reference = Reference.match(found["large"])
    assert reference is not None
    assert reference.sha256 == found["digest"]
    assert hall.log(runs["use"], "read").split() == [found["digest"], "-"]


def _by_path(mib: int) -> Manifest:
    write = f"head -c {mib << 20} /dev/urandom > $(results.large.path)"
    digest = "sha256sum < $(results.large.path) | head -c 64 > $(results.digest.path)"
    run = pipelinerun(
        f"path-{mib}",
        makes(f"{write}; {digest}", ["large", "digest"]),
        uses("use", "$(tasks.make.results.large)", reading('sha256sum < "$VALUE"')),
    )
    run["metadata"]["annotations"] = {"resultsfs.dev/params-as-path": "true"}
    return run
