"""A test's own namespace, and the runs that are started in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from tests.cluster import artefacts
from tests.cluster.images import recipes
from tests.cluster.kube import (
    DEADLINE,
    EVENT,
    NAMESPACE,
    POD,
    SERVICE_ACCOUNT,
    TASKRUN,
    Kind,
    Kube,
    Manifest,
    condition_is,
    kind_of,
)

ENDED = condition_is("Succeeded", "True", "False")
SUCCEEDED = condition_is("Succeeded", "True")


class Room:
    """A namespace and what a test does in it. As a context: made and ready for pods, then gone with all in it.

    Its `labels` are there from the start: webhooks and policies that choose by them learn of a change a moment later.
    """

    def __init__(self, kube: Kube, name: str, labels: Mapping[str, str] | None = None) -> None:
        self.kube, self.name, self._labels = kube, name, dict(labels or {})

    def __enter__(self) -> Self:
        self._remove()  # what a session left that was killed
        metadata = {"name": self.name, "labels": {artefacts.ROOM: "true", **self._labels}}
        self.kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
        self.kube.wait(SERVICE_ACCOUNT, "default", lambda _: True, self.name, what="to be there")
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is not None:
            artefacts.of_a_namespace(self.kube, self.name)
        self._remove()

    def _remove(self) -> None:
        self.kube.delete(NAMESPACE, self.name)
        self.kube.wait_gone(NAMESPACE, self.name)

    def start(self, manifest: str | Manifest) -> Manifest:
        """Create an object; of a run, as it was created."""
        return self.kube.create(manifest, self.name)

    def end(self, run: Manifest, *, deadline: float = DEADLINE) -> Manifest:
        """The run when it has ended, well or not."""
        return self.wait(kind_of(run), run["metadata"]["name"], ENDED, deadline=deadline, what="an end")

    def run(self, manifest: str | Manifest, *, deadline: float = DEADLINE) -> Manifest:
        """Start a run and return it when it has ended, well or not."""
        return self.end(self.start(manifest), deadline=deadline)

    def wait(
        self,
        kind: Kind,
        name: str,
        condition: Callable[[Manifest], bool],
        *,
        deadline: float = DEADLINE,
        what: str = "the condition",
    ) -> Manifest:
        """As `Kube.wait`, in this namespace."""
        return self.kube.wait(kind, name, condition, self.name, deadline=deadline, what=what)

    def log(self, taskrun: Manifest, step: str) -> str:
        """What a step of a TaskRun printed."""
        return self.kube.logs(taskrun["status"]["podName"], self.name, f"step-{step}")

    def taskruns(self, pipelinerun: Manifest) -> dict[str, Manifest]:
        """A PipelineRun's TaskRuns, by the names of their pipeline tasks."""
        selector = f"tekton.dev/pipelineRun={pipelinerun['metadata']['name']}"
        found = self.kube.list(TASKRUN, self.name, label_selector=selector)
        return {run["metadata"]["labels"]["tekton.dev/pipelineTask"]: run for run in found}

    def told(self, name: str) -> str:
        """The Events about an object, a line each, as `kubectl describe` shows them."""
        found = self.kube.list(EVENT, self.name, field_selector=f"involvedObject.name={name}")
        return "\n".join(f"{event['reason']}: {event.get('message', '')}" for event in found)

    def drivers(self, pod: str) -> list[str]:
        """The CSI drivers of a pod's inline volumes."""
        volumes = self.kube.get(POD, pod, self.name)["spec"]["volumes"]
        return [volume["csi"]["driver"] for volume in volumes if "csi" in volume]


def succeeded(run: Manifest) -> bool:
    """Whether a run has ended well."""
    return SUCCEEDED(run)


def outcome(run: Manifest) -> dict[str, str]:
    """A run's `Succeeded` condition: status, reason, message."""
    found: dict[str, str] = next(c for c in run["status"]["conditions"] if c["type"] == "Succeeded")
    return found


def results(run: Manifest) -> dict[str, Any]:
    """A run's results by name."""
    return {found["name"]: found["value"] for found in run["status"].get("results", [])}


def taskrun(name: str, results: list[str], **steps: str) -> Manifest:
    """A TaskRun of shell scripts with string results. An underscore in a step's keyword stands for a hyphen."""
    return {
        "apiVersion": TASKRUN.api_version,
        "kind": TASKRUN.kind,
        "metadata": {"name": name},
        "spec": {"taskSpec": task(results, **steps)},
    }


def task(results: list[str], **steps: str) -> Manifest:
    """A Task's spec of shell scripts with string results."""
    return {
        "results": [{"name": result} for result in results],
        "steps": [
            {
                "name": name.replace("_", "-"),
                "image": recipes.busybox().reference,
                "command": ["sh", "-ec", script],
            }
            for name, script in steps.items()
        ],
    }
