"""Load for a node: a pipeline whose results are carried on, and pods that write all the time and miss nothing."""

from __future__ import annotations

import subprocess
from typing import Any
from uuid import uuid4

from kubernetes.dynamic.exceptions import ApiException

from tests.cluster.images import recipes
from tests.cluster.installation import HANDWRITTEN, READY
from tests.cluster.kube import NAMESPACE, PIPELINERUN, POD, Kube, Manifest
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.room import Room, task
from tests.support.waiting import eventually

LARGE = 40_000
"""Bytes of the large result."""


def carrying(name: str) -> Manifest:
    """A PipelineRun of two tasks: a small and a large result of the one are params of the other."""
    use = task(["count"], read='printf "%s %s" "${#BIG}" "$SMALL" > /tekton/results/count')
    use["params"] = [{"name": "big"}, {"name": "small"}]
    use["steps"][0]["env"] = [{"name": "BIG", "value": "$(params.big)"}, {"name": "SMALL", "value": "$(params.small)"}]
    write = f"head -c {LARGE} /dev/zero | tr '\\0' x > /tekton/results/big; printf hello > /tekton/results/small"
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


def writing_pod(name: str) -> dict[str, Any]:
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
                    "volumeMounts": [
                        {"name": "results", "mountPath": "/tekton/results", "mountPropagation": "HostToContainer"}
                    ],
                }
            ],
            "volumes": [{"name": "results", "csi": {"driver": "csi.resultsfs.dev", "volumeAttributes": attributes}}],
        },
    }


def writer(room: Room, kube: Kube, cluster: Cluster, name: str = "writer") -> Writer:
    """Start such a pod in a namespace that from now on enforces Pod Security's level `restricted`; it writes."""
    labels = {HANDWRITTEN: "true", "pod-security.kubernetes.io/enforce": "restricted"}
    kube.patch(NAMESPACE, room.name, {"metadata": {"labels": labels}})
    eventually(lambda: _created(room, name), 60)
    room.wait(POD, name, READY, what="to be ready")
    return Writer([*cluster.kubectl(), "--namespace", room.name], name)


def _created(room: Room, name: str) -> bool:
    """Whether the pod could be made; the policy learns of a namespace's label a moment later."""
    try:
        room.start(writing_pod(name))
    except ApiException as error:
        if error.status not in (403, 422):
            raise
        return False
    return True


class Writer:
    """The pod that writes."""

    def __init__(self, kubectl: list[str], name: str) -> None:
        self._kubectl, self._name = kubectl, name

    def lines(self) -> list[str]:
        """What it has written so far, as the pod itself reads it."""
        command = [*self._kubectl, "exec", self._name, "--", "cat", "/tekton/results/report"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def goes_on(self) -> None:
        """Ten more lines come, and none is missing."""
        before = len(self.lines())
        eventually(lambda: len(self.lines()) >= before + 10, 120)
        lines = self.lines()
        assert lines == [str(number + 1) for number in range(len(lines))]
