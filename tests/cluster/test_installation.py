"""The chart on a real cluster: what it gives pods, what replacing its own pods costs, what is left of it in the end."""

from __future__ import annotations

import pytest

from tests.cluster.installation import DAEMONSET, SYSTEM, Installation
from tests.cluster.kube import POD, Kind, Kube
from tests.cluster.load import LARGE, Writer, carrying, writer
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import Places
from tests.cluster.machine.settings import DISK
from tests.cluster.room import Room, outcome, results, succeeded, taskrun
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def test_a_large_result_goes_from_task_to_task(ours: Room) -> None:
    """Small: inline in status. Large: a reference in status, and the content again in the next TaskRun's param."""
    run = ours.run(carrying("carry"))
    assert succeeded(run), outcome(run)
    runs = ours.taskruns(run)
    found = results(runs["make"])
    assert found["small"] == "hello"
    assert found["big"].startswith("/tekton/results/.ref/")
    assert results(runs["use"]) == {"count": f"{LARGE} hello"}
    for made in runs.values():
        assert ours.drivers(made["status"]["podName"]) == ["csi.resultsfs.dev"]


def test_other_namespaces_are_left_alone(resultsfs: Installation, room: Room) -> None:
    """A TaskRun in a namespace that the selector does not choose is stock Tekton's."""
    run = room.run(taskrun("plain", ["a"], write="printf x > /tekton/results/a"))
    assert succeeded(run)
    assert room.drivers(run["status"]["podName"]) == []


@pytest.fixture
def writing(resultsfs: Installation, room: Room, kube: Kube, cluster: Places) -> Writer:
    """A pod that writes all the time, in a namespace that enforces Pod Security's level `restricted`."""
    return writer(room, kube, Cluster(cluster))


@pytest.mark.parametrize("component", ["node", "holder"])
def test_a_pod_does_not_notice_that_ours_is_replaced(resultsfs: Installation, writing: Writer, component: str) -> None:
    """While the node's pod, or the holder's, is deleted and made anew, a pod writes on, and loses nothing."""
    writing.goes_on()
    resultsfs.replace(component)
    writing.goes_on()


def test_an_upgrade_is_not_noticed(resultsfs: Installation, writing: Writer) -> None:
    """helm upgrade with other values replaces the node pods and not the holders, while a pod writes."""
    holders = [pod["metadata"]["uid"] for pod in resultsfs.pods("holder")]
    nodes = [pod["metadata"]["uid"] for pod in resultsfs.pods("node")]
    resultsfs.helm(
        "upgrade", "resultsfs", "deploy/chart", "--namespace", SYSTEM, "--reuse-values",
        "--set-string=node.podAnnotations.upgraded=yes",
    )  # fmt: skip
    resultsfs.settle()
    assert [pod["metadata"]["uid"] for pod in resultsfs.pods("holder")] == holders
    assert not set(nodes) & {pod["metadata"]["uid"] for pod in resultsfs.pods("node")}
    writing.goes_on()


def test_nothing_is_left_of_a_volume(resultsfs: Installation, writing: Writer, room: Room) -> None:
    """When a pod goes, its mount, its spool and its directories on the node go with it."""
    uid = room.kube.get(POD, "writer", room.name)["metadata"]["uid"]
    assert [line for line in resultsfs.mounts() if uid in line]
    room.kube.delete(POD, "writer", room.name)
    room.kube.wait_gone(POD, "writer", room.name)
    eventually(lambda: not [line for line in resultsfs.mounts() if uid in line], 120)
    eventually(lambda: uid not in resultsfs.node("ls", "/var/lib/kubelet/pods"), 120)
    eventually(lambda: not resultsfs.volumes(), 120)


def test_nothing_is_left_of_the_installation(resultsfs: Installation, kube: Kube) -> None:
    """After uninstalling as the documentation says there is no object, no mount and no process; a new one works."""
    resultsfs.uninstall()
    assert kube.list(DAEMONSET, SYSTEM) == []
    for api_version, kind in (
        ("storage.k8s.io/v1", "CSIDriver"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
    ):
        assert kube.list(Kind(api_version, kind), label_selector="app.kubernetes.io/name=resultsfs") == []
    assert resultsfs.mounts() == []
    assert resultsfs.drivers() == set()
    assert "resultsfs" not in resultsfs.node("ls", DISK, "/var/lib", "/var/lib/kubelet/plugins")
    resultsfs.install()
