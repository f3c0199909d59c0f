"""Tekton's own controller on the API server, and what a kubelet would tell it of pods that nobody runs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from controller.kube.client import Kube
from controller.kube.errors import Conflict
from controller.kube.resources import CONFIG_MAPS, PIPELINE_RUNS, TASK_RUNS, Resource, Tree
from resultsfs.message import encode
from tests.controller import replica
from tests.controller.apiserver import ApiServer
from tests.support import tekton
from tests.support.ports import free_ports

PODS = Resource("", "v1", "pods", "Pod")
SYSTEM = "tekton-pipelines"
ACCOUNT = "tekton-pipelines-controller"
DEADLINE = 90.0


@contextmanager
def running(api: ApiServer, kube: Kube) -> Iterator[subprocess.Popen[bytes]]:
    """Tekton's controller as a process; ended afterwards."""
    config = tekton.source().directory / "config"
    for file in sorted(config.glob("config-*.yaml")):
        for tree in yaml.safe_load_all(file.read_text()):
            if tree["metadata"]["name"] == "feature-flags":
                # Without sidecar injectors a pod may start at once, and nobody has to make it ready.
                tree["data"]["running-in-environment-with-injected-sidecars"] = "false"
            try:
                kube.create(CONFIG_MAPS, SYSTEM, tree)
            except Conflict:
                continue  # of a controller before
    kubeconfig = _account(api, kube)
    profiling, probes, metrics = free_ports(3)
    images = ("entrypoint", "nop", "sidecarlogresults", "workingdirinit", "shell", "shell-image-win")
    command = [str(tekton.program("controller")), "-kubeconfig", str(kubeconfig)]
    for image in images:
        flag = image if image.startswith("shell-image") else f"{image}-image"
        command += [f"-{flag}", f"example.invalid/{image}"]
    environment: dict[str, str] = {
        "PATH": os.environ["PATH"],
        "HOME": str(api.home),
        "SYSTEM_NAMESPACE": SYSTEM,
        "KUBERNETES_MIN_VERSION": "v1.28.0",
        "CONFIG_DEFAULTS_NAME": "config-defaults",
        "CONFIG_LOGGING_NAME": "config-logging",
        "CONFIG_OBSERVABILITY_NAME": "config-observability",
        "CONFIG_FEATURE_FLAGS_NAME": "feature-flags",
        "CONFIG_LEADERELECTION_NAME": "config-leader-election-controller",
        "CONFIG_SPIRE": "config-spire",
        "METRICS_DOMAIN": "tekton.dev/pipeline",
        "METRICS_PROMETHEUS_PORT": str(metrics),
        "PROFILING_PORT": str(profiling),
        "PROBES_PORT": str(probes),
    }
    with (api.home / "tekton.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _account(api: ApiServer, kube: Kube) -> Path:
    """A kubeconfig of Tekton's service account, which may do anything here."""
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}
    binding = {
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [subject],
    }
    try:
        kube.create(replica.RESOURCES["ServiceAccount"], SYSTEM, {"metadata": {"name": ACCOUNT}})
        kube.create(replica.RESOURCES["ClusterRoleBinding"], None, binding)
    except Conflict:
        pass  # of a controller before
    return replica.account_kubeconfig(api, kube, ACCOUNT, SYSTEM)


class Runs:
    """Makes runs in a namespace and follows them."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace

    def apply(self, manifest: str) -> list[Tree]:
        """Create the objects of YAML documents."""
        made = []
        for tree in yaml.safe_load_all(manifest):
            group, _, version = tree["apiVersion"].rpartition("/")
            resource = Resource(group, version, tree["kind"].lower() + "s", tree["kind"])
            made.append(self.kube.create(resource, self.namespace, tree))
        return made

    def task_run(self, pipeline_run: str, task: str) -> Tree:
        """The TaskRun of a pipeline's task, once Tekton has made it."""
        selector = f"tekton.dev/pipelineRun={pipeline_run},tekton.dev/pipelineTask={task}"
        return self._first(TASK_RUNS, selector)

    def pod(self, task_run: str) -> Tree:
        """A TaskRun's pod, once Tekton has made it."""
        return self._first(PODS, f"tekton.dev/taskRun={task_run}")

    def _first(self, resource: Resource, selector: str) -> Tree:
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            if found := self.kube.list(resource, self.namespace, labels=selector).items:
                return found[0]
            if any(
                condition(run).get("status") == "False" for run in self.kube.list(PIPELINE_RUNS, self.namespace).items
            ):
                break
            time.sleep(0.05)
        raise AssertionError(f"no {resource.plural} with {selector}: {self._conditions()}")

    def ended(self, resource: Resource, name: str) -> Tree:
        """A run once it has succeeded or failed; its condition is `condition(tree)`."""
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            tree = self.kube.get(resource, self.namespace, name)
            if condition(tree).get("status") in ("True", "False"):
                return tree
            time.sleep(0.05)
        raise AssertionError(f"{resource.kind} {name} did not end: {self._conditions()}")

    def finish(self, pod: Tree, results: Mapping[str, str]) -> None:
        """Tell what a kubelet would: all steps have ended well and left these results in their messages."""
        message = encode((name, value.encode()) for name, value in results.items()).decode()
        statuses = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {
                    "terminated": {
                        "exitCode": 0,
                        "reason": "Completed",
                        "message": message,
                        "startedAt": "2026-01-01T00:00:00Z",
                        "finishedAt": "2026-01-01T00:00:01Z",
                    }
                },
            }
            for container in pod["spec"]["containers"]
        ]
        path = PODS.path(self.namespace, pod["metadata"]["name"], "status")
        self.kube.merge(path, {"status": {"phase": "Succeeded", "containerStatuses": statuses}})

    def _conditions(self) -> str:
        runs = [
            (resource.kind, tree["metadata"]["name"], condition(tree))
            for resource in (PIPELINE_RUNS, TASK_RUNS)
            for tree in self.kube.list(resource, self.namespace).items
        ]
        return json.dumps(runs, indent=1)


def condition(run: Tree) -> dict[str, Any]:
    """A run's condition Succeeded."""
    conditions: list[dict[str, Any]] = (run.get("status") or {}).get("conditions") or [{}]
    return conditions[0]
