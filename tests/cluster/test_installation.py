"""The chart on a real cluster: what it gives pods, what replacing its own pods costs, what is left of it in the end."""

from __future__ import annotations

import subprocess
from typing import Any
from uuid import uuid4

import pytest
from kubernetes.dynamic.exceptions import ApiException

from tests.cluster.images import recipes
from tests.cluster.installation import DAEMONSET, HANDWRITTEN, READY, SYSTEM, Installation
from tests.cluster.kube import NAMESPACE, PIPELINERUN, POD, Kind, Kube, Manifest
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import Places
from tests.cluster.machine.settings import DISK
from tests.cluster.room import Room, outcome, results, succeeded, task, taskrun
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

_LARGE = 40_000


def _pipeline(name: str) -> Manifest:
    use = task(["count"], read='printf "%s %s" "${#BIG}" "$SMALL" > /tekton/results/count')
    use["params"] = [{"name": "big"}, {"name": "small"}]
    use["steps"][0]["env"] = [{"name": "BIG", "value": "$(params.big)"}, {"name": "SMALL", "value": "$(params.small)"}]
    write = f"head -c {_LARGE} /dev/zero | tr '\\0' x > /tekton/results/big; printf hello > /tekton/results/small"
    return {
        "apiVersion": PIPELINERUN.api_version,
        "kind": PIPELINERUN.kind,
        "metadata": {"name": name},
        "spec": {
            "pipelineSpec": {
                "tasks": [
                    {"name": "make", "taskSpec": task(["big", "small"], write=write)},
                    {
                        "name": "use",
                        "taskSpec": use,
                        "params": [
                            {"name": result, "value": f"$(tasks.make.results.{result})"} for result in ("big", "small")
                        ],
                    },
                ],
                "results": [{"name": "count", "value": "$(tasks.use.results.count)"}],
            }
        },
    }


def test_a_large_result_goes_from_task_to_task(ours: Room) -> None:
    """Small: inline in status. Large: a reference in status, and the content again in the next TaskRun's param."""
    run = ours.run(_pipeline("carry"))
    assert succeeded(run), outcome(run)
    runs = ours.taskruns(run)
    found = results(runs["make"])
    assert found["small"] == "hello"
    assert found["big"].startswith("/tekton/results/.ref/")
    assert results(runs["use"]) == {"count": f"{_LARGE} hello"}
    for made in runs.values():
        assert ours.drivers(made["status"]["podName"]) == ["csi.resultsfs.dev"]


def test_other_namespaces_are_left_alone(resultsfs: Installation, room: Room) -> None:
    """A TaskRun in a namespace that the selector does not choose is stock Tekton's."""
    run = room.run(taskrun("plain", ["a"], write="printf x > /tekton/results/a"))
    assert succeeded(run)
    assert room.drivers(run["status"]["podName"]) == []


def _pod(name: str) -> dict[str, Any]:
    """A hand-written pod as Pod Security's strictest level wants it, which writes a line again and again."""
    program = 'i=0; while sleep 0.1; do i=$((i+1)); echo "$i" >> /tekton/results/report || exit 9; done'
    attributes = {"results": "report", "taskrun": "none", "run-uid": str(uuid4())}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "step",
                    "image": recipes.busybox().reference,
                    "command": ["sh", "-c", program],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "results", "mountPath": "/tekton/results"}],
                }
            ],
            "volumes": [{"name": "results", "csi": {"driver": "csi.resultsfs.dev", "volumeAttributes": attributes}}],
        },
    }


@pytest.fixture
def writing(resultsfs: Installation, room: Room, kube: Kube, cluster: Places) -> _Writing:
    """A pod that writes all the time, in a namespace that enforces Pod Security's level `restricted`."""
    labels = {HANDWRITTEN: "true", "pod-security.kubernetes.io/enforce": "restricted"}
    kube.patch(NAMESPACE, room.name, {"metadata": {"labels": labels}})
    eventually(lambda: _created(room), 60)
    room.wait(POD, "writer", READY, what="to be ready")
    return _Writing([*Cluster(cluster).kubectl(), "--namespace", room.name])


def _created(room: Room) -> bool:
    """Whether the pod could be made; the policy learns of a namespace's label a moment later."""
    try:
        room.start(_pod("writer"))
    except ApiException as error:
        if error.status not in (403, 422):
            raise
        return False
    return True


class _Writing:
    """The pod that writes."""

    def __init__(self, kubectl: list[str]) -> None:
        self._kubectl = kubectl

    def lines(self) -> list[str]:
        """What it has written so far, as the pod itself reads it."""
        command = [*self._kubectl, "exec", "writer", "--", "cat", "/tekton/results/report"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def goes_on(self) -> None:
        """Ten more lines come, and none is missing."""
        before = len(self.lines())
        eventually(lambda: len(self.lines()) >= before + 10, 120)
        lines = self.lines()
        assert lines == [str(number + 1) for number in range(len(lines))]


@pytest.mark.parametrize("component", ["node", "holder"])
def test_a_pod_does_not_notice_that_ours_is_replaced(
    resultsfs: Installation, writing: _Writing, component: str
) -> None:
    """While the node's pod, or the holder's, is deleted and made anew, a pod writes on, and loses nothing."""
    writing.goes_on()
    resultsfs.replace(component)
    writing.goes_on()


def test_an_upgrade_is_not_noticed(resultsfs: Installation, writing: _Writing) -> None:
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


def test_nothing_is_left_of_a_volume(resultsfs: Installation, writing: _Writing, room: Room) -> None:
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
