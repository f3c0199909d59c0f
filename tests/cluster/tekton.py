"""Stock Tekton Pipelines on the cluster: the manifests of the pinned module, with the images that are on the node.

Left out: the remote resolvers, whose Go module needs a version of github.com/jenkins-x/go-scm that the module proxy
does not serve; the events controller, which only sends CloudEvents to a sink that is not there; the webhook's
autoscaler. Everything else is as released, but for quicker leader election and for the right to read pods' logs, which
Tekton's documentation says to grant for results by sidecar logs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml
from kubernetes.dynamic.exceptions import ApiException, NotFoundError

from tests.cluster.images import recipes
from tests.cluster.kube import DEADLINE, DEPLOYMENT, NAMESPACE, TASKRUN, Kube, Manifest
from tests.cluster.machine.progress import phase
from tests.cluster.room import Room, succeeded, taskrun
from tests.support import tekton
from tests.support.waiting import eventually

SYSTEM = "tekton-pipelines"
"""Tekton's own namespace."""
FEATURE_FLAGS = "feature-flags"
"""The ConfigMap in it that chooses `results-from` and the like."""
_DEPLOYMENTS = ("tekton-pipelines-webhook", "tekton-pipelines-controller")
_INSTALLED = "resultsfs.test/installed"
"""Annotation of that namespace: the digest of the manifests that were installed and proven to work."""
_LEFT_OUT = ("events.yaml", "webhook-hpa.yaml", "config-leader-election-events.yaml")
_LEADER_ELECTION = {"lease-duration": "15s", "renew-deadline": "10s", "retry-period": "2s"}
_SHELL_FLAG = "-shell-image"


def install(kubeconfig: Path) -> None:
    """Apply Tekton's manifests and return when a TaskRun has run. The images are on the node already."""
    with Kube(kubeconfig) as kube:
        wanted = manifests()
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        if _installed(kube) == digest:
            return
        with phase(f"{len(wanted)} manifests of Tekton {tekton.source().version}"):
            refused = [manifest for manifest in wanted if not _applied(kube, manifest)]
        with phase("Tekton's webhook and controller"):
            for name in _DEPLOYMENTS:
                kube.wait(DEPLOYMENT, name, _rolled_out, SYSTEM, what="that all its pods are new and ready")
            for manifest in refused:
                eventually(partial(_applied, kube, manifest), DEADLINE)
        with phase("a first TaskRun"):
            prove(kube)
        kube.patch(NAMESPACE, SYSTEM, {"metadata": {"annotations": {_INSTALLED: digest}}})


def _rolled_out(deployment: Manifest) -> bool:
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    seen = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return seen and all(status.get(f"{kind}eplicas") == wanted for kind in ("r", "updatedR", "availableR"))


def _installed(kube: Kube) -> str | None:
    """The digest of the manifests that were installed and proven; None if there are none, or they do not run."""
    try:
        available = all(_rolled_out(kube.get(DEPLOYMENT, name, SYSTEM)) for name in _DEPLOYMENTS)
        annotations = kube.get(NAMESPACE, SYSTEM)["metadata"].get("annotations", {})
    except NotFoundError:
        return None
    found: str | None = annotations.get(_INSTALLED) if available else None
    return found


def _applied(kube: Kube, manifest: Manifest) -> bool:
    """Apply it; False where Tekton's webhook, installed before or just now, does not answer yet."""
    try:
        kube.apply([manifest])
    except ApiException as error:
        if error.status != 500 or "failed calling webhook" not in str(error.body):
            raise
        return False
    return True


def manifests() -> list[Manifest]:
    """Tekton's objects in the order to apply them in."""
    module = tekton.source().directory
    folders = ("config/100-namespace", "config/300-crds", "config", "optional_config/enable-log-access-to-controller")
    files = [file for folder in folders for file in sorted((module / folder).glob("*.yaml"))]
    documents = [
        document
        for file in files
        if file.name not in _LEFT_OUT
        for document in yaml.safe_load_all(file.read_text())
        if document is not None
    ]
    return [_adapted(document) for document in documents]


def _adapted(document: Manifest) -> Manifest:
    if document["kind"] == "Deployment":
        for container in document["spec"]["template"]["spec"]["containers"]:
            container["image"] = _image(container["image"])
            container["imagePullPolicy"] = "Never"
            if "args" in container:
                container["args"] = list(_arguments(container["args"]))
    if document["kind"] == "ConfigMap" and document["metadata"]["name"].startswith("config-leader-election"):
        document["data"] = document.get("data", {}) | _LEADER_ELECTION
    return document


def _arguments(arguments: list[str]) -> Iterator[str]:
    previous = ""
    for argument in arguments:
        yield recipes.busybox().reference if previous == _SHELL_FLAG else _image(argument)
        previous = argument


def _image(name: str) -> str:
    """Our image for a `ko://` name; anything else as it is."""
    prefix = f"ko://{tekton.PACKAGE}/cmd/"
    return recipes.tekton_image(name.removeprefix(prefix)).reference if name.startswith(prefix) else name


def prove(kube: Kube) -> None:
    """Run a TaskRun, so that whoever comes next waits for nothing. Raises AssertionError when it does not succeed."""
    room = Room(kube, "default")
    run = taskrun("resultsfs-ready", [], ready="true")
    run["metadata"]["namespace"] = room.name
    kube.delete(TASKRUN, "resultsfs-ready", room.name)
    kube.wait_gone(TASKRUN, "resultsfs-ready", room.name)
    eventually(partial(_applied, kube, run), DEADLINE)
    done = room.end(run)
    kube.delete(TASKRUN, "resultsfs-ready", room.name)
    assert succeeded(done), yaml.safe_dump(done["status"])
