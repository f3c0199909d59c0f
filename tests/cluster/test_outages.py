"""What pods notice on a real node when the driver's processes are killed, hang or lose everything; what is left then."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable

import pytest

from tests.cluster.installation import SYSTEM, Installation
from tests.cluster.kube import EVENT, POD, Kube, Manifest
from tests.cluster.load import LARGE, Writer, carrying, writer
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import Places
from tests.cluster.room import Room, outcome, results, succeeded, taskrun
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

_WAITS = """
echo before > $(results.report.path)
exec 3>> $(results.report.path)
echo begun
until cat /tekton/results/again 2> /dev/null; do sleep 0.2; done
echo lost >&3 || echo what was open is lost
echo after >> $(results.report.path)
"""


def _left_of(resultsfs: Installation, uid: str) -> list[str]:
    """What is on the node of a pod's volumes: lines of the mount table, directories."""
    pods = resultsfs.node("ls", "/var/lib/kubelet/pods").split()
    return [line for line in resultsfs.mounts() if uid in line] + [name for name in pods if name == uid]


def test_new_opens_work_after_every_descriptor_was_lost(
    resultsfs: Installation, ours: Room, kube: Kube, cluster: Places
) -> None:
    """Holder and mounter are killed at the same moment. A new mount is put over the dead one, and the running step sees
    it: what it opens then works, on the same files, and its result is collected; what it had open is lost. Both
    mounts go with the pod, and nothing of it is left."""
    run = ours.start(taskrun("survivor", ["report"], step=_WAITS))
    name = ours.wait(
        POD, "survivor-pod", lambda pod: pod["status"].get("phase") == "Running", what="to run"
    )["metadata"]["name"]  # fmt: skip
    kubectl = [*Cluster(cluster).kubectl(), "--namespace", ours.name, "exec", name, "--container", "step-step", "--"]
    pod = kube.get(POD, name, ours.name)
    uid = pod["metadata"]["uid"]
    propagation = {
        mount.get("mountPropagation")
        for container in pod["spec"]["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == "tekton-internal-results"
    }
    assert propagation == {"HostToContainer"}
    eventually(lambda: "begun" in kube.logs(name, ours.name, "step-step"), 120)
    assert len([line for line in resultsfs.mounts() if uid in line]) == 1
    resultsfs.kill("holder", "mounter")
    assert len([line for line in resultsfs.mounts() if uid in line]) == 2

    def told() -> bool:
        command = [*kubectl, "sh", "-c", "echo seen > /tekton/results/again"]
        return subprocess.run(command, capture_output=True, timeout=120).returncode == 0

    eventually(told, 60)
    ended = ours.end(run, deadline=300)
    assert succeeded(ended), outcome(ended)
    assert results(ended) == {"report": "before\nafter\n"}
    printed = ours.log(ended, "step").splitlines()
    assert [line for line in printed if not line.startswith("sh: ")] == ["begun", "seen", "what was open is lost"]
    kube.delete(POD, name, ours.name)
    kube.wait_gone(POD, name, ours.name)
    eventually(lambda: _left_of(resultsfs, uid) == [], 180)
    eventually(lambda: not resultsfs.volumes(), 180)


@pytest.fixture
def writing(resultsfs: Installation, room: Room, kube: Kube, cluster: Places) -> Writer:
    """A pod that writes all the time."""
    return writer(room, kube, Cluster(cluster))


def _reasons(kube: Kube, room: Room) -> set[str]:
    found = kube.list(EVENT, room.name)
    return {event["reason"] for event in found if event.get("source", {}).get("component") == "csi.resultsfs.dev"}


@pytest.mark.slow
def test_a_mounter_that_hangs(resultsfs: Installation, writing: Writer, room: Room, kube: Kube) -> None:
    """The pod whose results nobody serves is told by an Event, and the node's pod is not Ready; the mounter is restarted,
    and nobody else is; the pod goes on where it was, and is told that too."""
    writing.goes_on()
    before = resultsfs.restarts("node"), resultsfs.restarts("holder")
    resultsfs.signal(19, "mounter")
    eventually(lambda: "ResultsNotServed" in _reasons(kube, room), 120)
    eventually(lambda: not any("Ready" in _conditions(pod) for pod in resultsfs.pods("node")), 120)
    eventually(lambda: resultsfs.restarts("node")["mounter"] == before[0]["mounter"] + 1, 300)
    resultsfs.settle()
    writing.goes_on()
    eventually(lambda: "ResultsServed" in _reasons(kube, room), 60)
    after = resultsfs.restarts("node"), resultsfs.restarts("holder")
    assert after == (before[0] | {"mounter": before[0]["mounter"] + 1}, before[1])


def _conditions(pod: Manifest) -> set[str]:
    """The conditions that hold."""
    return {found["type"] for found in pod["status"].get("conditions", []) if found["status"] == "True"}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_random_under_load(resultsfs: Installation, ours: Room, kube: Kube, cluster: Places) -> None:
    """Driver, mounter, both, the holder, the pods of either: killed in a random order, while pods write all the time and
    pipelines carry results from task to task. No line is missing, no run fails, no pod stays, and in the end there
    is no mount, no spool and no process too many."""
    with Room(kube, "t-writers") as room:
        writers = [writer(room, kube, Cluster(cluster), f"writer-{number}") for number in range(3)]
        _survive(resultsfs, ours, writers)
        _nothing_left(resultsfs, kube, [ours, room])


def _survive(resultsfs: Installation, ours: Room, writers: list[Writer]) -> None:
    outages: dict[str, Callable[[], None]] = {
        "driver": lambda: resultsfs.kill("driver"),
        "mounter": lambda: resultsfs.kill("mounter"),
        "driver and mounter": lambda: resultsfs.kill("driver", "mounter"),
        "holder": lambda: resultsfs.kill("holder"),
        "the node's pod": lambda: resultsfs.replace("node"),
        "the holder's pod": lambda: resultsfs.replace("holder"),
    }
    seed = random.SystemRandom().randrange(1000)
    order = random.Random(seed).sample(sorted(outages), len(outages))
    print(f"seed {seed}: {', '.join(order)}")
    runs = []
    for number, what in enumerate(order):
        runs += [ours.start(carrying(f"run-{number}-{which}")) for which in range(2)]
        outages[what]()
        eventually(resultsfs.served, 300)
        for one in writers:
            one.goes_on()
    for run in runs:
        ended = ours.end(run, deadline=600)
        assert succeeded(ended), outcome(ended)
        assert ended["status"]["results"] == [{"name": "count", "value": f"{LARGE} hello"}]


def _nothing_left(resultsfs: Installation, kube: Kube, rooms: list[Room]) -> None:
    pods = [pod["metadata"] for room in rooms for pod in kube.list(POD, room.name)]
    assert len(pods) > 3
    uids = [pod["uid"] for pod in pods]
    for pod in pods:
        kube.delete(POD, pod["name"], pod["namespace"])
    for pod in pods:
        kube.wait_gone(POD, pod["name"], pod["namespace"], deadline=300)
    eventually(lambda: [left for uid in uids for left in _left_of(resultsfs, uid)] == [], 300)
    eventually(lambda: not resultsfs.volumes() and resultsfs.mounts() == [], 300)
    for process in ("holder", "driver", "mounter"):
        assert len(resultsfs.processes(process)) == 1
    assert kube.list(POD, SYSTEM, field_selector="status.phase=Failed") == []
