"""Kubernetes and Tekton, and what the installation's namespace and settings let it do."""

from __future__ import annotations

import json
import re

from controller.admission.features import CONFIG_MAP as FEATURE_FLAGS
from controller.admission.features import LARGEST
from controller.doctor.view import (
    DEPLOYMENTS,
    INSTALL,
    PODS,
    SYSTEM,
    View,
    failed,
    few,
    labels_of,
    selects,
    warned,
    well,
)
from controller.kube.errors import ApiError, NotFound
from controller.kube.resources import CONFIG_MAPS, MUTATING_WEBHOOKS, NAMESPACES, Tree, annotations_of
from resultsfs import settings as settings_module
from resultsfs.annotations import INJECT
from resultsfs.cli.checks import Check
from resultsfs.errors import InvalidSetting

OLDEST = (1, 30)
"""Kubernetes: the first with ValidatingAdmissionPolicy as v1."""
TEKTON = "tekton-pipelines-controller"
_ENFORCE = "pod-security.kubernetes.io/enforce"
_METHODS = ("termination-message", "sidecar-logs")
_TEKTON_PODS = "app.kubernetes.io/part-of=tekton-pipelines,app.kubernetes.io/component=controller"


def api(view: View) -> Check:
    """The API server, and its version."""
    found = json.loads(view.kube.raw("/version"))
    view.reached = True
    text = str(found.get("gitVersion", "unknown"))
    digits = re.match(r"v?(\d+)\.(\d+)", text)
    if digits is None:
        return warned("api", f"{view.kube.endpoint.url}: version {text!r}", "compare it with 1.30 yourself")
    if (int(digits[1]), int(digits[2])) < OLDEST:
        return failed("api", f"{view.kube.endpoint.url}: Kubernetes {text}", "upgrade Kubernetes to 1.30 or later")
    return well("api", f"{view.kube.endpoint.url}: Kubernetes {text}")


def tekton(view: View) -> Check:
    """Tekton Pipelines: its API, its controller, its version."""
    namespace = view.tekton_namespace
    advice = (
        "install Tekton Pipelines: https://tekton.dev/docs/installation/pipelines/; if it runs in another namespace than "
        f"{namespace}, set tekton.namespace of the chart"
    )
    try:
        view.kube.raw("/apis/tekton.dev/v1")
    except NotFound:
        return failed("tekton", "the API server knows no tekton.dev/v1", advice)
    deployment = view.find(DEPLOYMENTS, TEKTON, namespace)
    if deployment is None:
        return failed("tekton", f"no Deployment {TEKTON} in {namespace}", advice)
    version = _version(view, deployment)
    if not (deployment.get("status") or {}).get("availableReplicas"):
        look = f"kubectl --namespace {namespace} describe pods --selector {_TEKTON_PODS}"
        return failed("tekton", f"Tekton Pipelines {version}: its controller is not available", look)
    if not version:
        cure = "compare it with docs/operations.md, Install, yourself"
        return warned("tekton", "Tekton Pipelines of an unknown version", cure)
    return well("tekton", f"Tekton Pipelines {version} in {namespace}")


def _version(view: View, deployment: Tree | None) -> str:
    """Tekton's version, by its own words; "" where it does not say."""
    told = labels_of(deployment).get("app.kubernetes.io/version") if deployment else ""
    if told:
        return told
    found = view.find(CONFIG_MAPS, "pipelines-info", view.tekton_namespace) or {}
    return str((found.get("data") or {}).get("version", ""))


def loses_lines(version: str) -> bool:
    """Whether sidecar logs of that Tekton lose results whose JSON line is above 4096 bytes (docs/benchmarks.md)."""
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return numbers is not None and (1, 9, 0) <= tuple(int(text) for text in numbers.groups()) <= (1, 14, 1)


def flags(view: View) -> Check:
    """How Tekton collects results, and how large they may be by its own rule."""
    namespace = view.tekton_namespace
    where = f"ConfigMap {namespace}/{FEATURE_FLAGS}"
    found = view.find(CONFIG_MAPS, FEATURE_FLAGS, namespace)
    if found is None:
        return warned(
            "flags",
            f"{where} is not there: Tekton's defaults are assumed",
            f"apply Tekton's release again; its manifests have {FEATURE_FLAGS}",
        )
    data = found.get("data") or {}
    method, size = data.get("results-from", _METHODS[0]), data.get("max-result-size", "4096")
    cure = f"kubectl --namespace {namespace} edit configmap {FEATURE_FLAGS}"
    if method not in _METHODS:
        return warned("flags", f"{where}: results-from is {method!r}", f"{cure}: one of {', '.join(_METHODS)}")
    if not re.fullmatch(r"[0-9]{1,9}", size) or not 0 < int(size) <= LARGEST:
        return warned("flags", f"{where}: max-result-size is {size!r}", f"{cure}: 1 to {LARGEST} bytes")
    version = _version(view, view.find(DEPLOYMENTS, TEKTON, namespace)) if method == "sidecar-logs" else ""
    if loses_lines(version):
        said = f"results-from {method}, by which Tekton {version} loses results whose JSON line is above 4096 bytes"
        return warned("flags", said, f"upgrade Tekton Pipelines to 1.15.0, or {cure}: results-from: {_METHODS[0]}")
    return well("flags", f"results-from {method}, max-result-size {size}")


def settings(view: View) -> Check:
    """The installation's settings."""
    where = f"ConfigMap {view.namespace}/{SYSTEM}"
    found = view.find(CONFIG_MAPS, SYSTEM, view.namespace)
    if found is None:
        return failed("settings", f"{where} is not there", INSTALL.format(namespace=view.namespace))
    cure = f"kubectl --namespace {view.namespace} edit configmap {SYSTEM}; docs/settings.md has all settings"
    try:
        taken = settings_module.from_mapping(found.get("data") or {}, where)
    except InvalidSetting as error:
        return failed("settings", str(error), cure)
    if not taken.store:
        return failed("settings", f"{where} names no store", cure)
    if taken.observe:
        return warned("settings", f"{where}: observe is on, TaskRuns are left as they are", f"{cure}: observe: false")
    return well("settings", f"store {taken.store}, result-size-threshold {taken.result_size_threshold} bytes")


def pod_security(view: View) -> Check:
    """Whether Pod Security lets the holder and the node pods into their namespace."""
    namespace = view.find(NAMESPACES, view.namespace)
    if namespace is None:
        return failed("security", f"there is no namespace {view.namespace}", INSTALL.format(namespace=view.namespace))
    cure = f"kubectl label --overwrite namespace {view.namespace} {_ENFORCE}=privileged"
    level = labels_of(namespace).get(_ENFORCE)
    if level == "privileged":
        return well("security", f"namespace {view.namespace} admits privileged pods")
    if level is not None:
        said = f"namespace {view.namespace} has {_ENFORCE}={level}: pods of holder and node driver are not made again"
        return failed("security", said, cure)
    refused = _refused(view)
    missing = f"namespace {view.namespace} has no label {_ENFORCE}"
    if refused:
        return failed("security", f"{missing}, and privileged pods are refused: {refused}", cure)
    return warned(
        "security", f"{missing}; privileged pods are admitted, as long as the cluster's default lets them", cure
    )


def _refused(view: View) -> str:
    """What the API server has against a privileged pod, by a dry run."""
    container = {"name": "doctor", "image": "doctor", "securityContext": {"privileged": True}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "resultsfs-doctor-"},
        "spec": {"hostPID": True, "containers": [container], "serviceAccountName": "resultsfs-holder"},
    }
    try:
        view.kube.post(PODS.path(view.namespace) + "?dryRun=All", pod)
    except ApiError as error:
        if error.status == 403 and "PodSecurity" in str(error):
            return str(error)
        raise
    return ""


def namespaces(view: View) -> Check:
    """Which namespaces are left as in stock Tekton: the webhook does not select them, or they say so themselves."""
    chosen, left = divided(view)
    if not left:
        return well("namespaces", f"all {len(chosen)} namespaces are served")
    return well("namespaces", f"{len(chosen)} served; left as in stock Tekton: {few(left, 10)}")


def divided(view: View) -> tuple[list[str], list[str]]:
    """The namespaces whose TaskRuns get a volume, and the others. Raises ApiError."""
    configuration = view.find(MUTATING_WEBHOOKS, SYSTEM) or {}
    webhook: Tree = next((one for one in configuration.get("webhooks") or [] if one["name"].startswith("pods.")), {})
    selector = webhook.get("namespaceSelector") or {}
    chosen: list[str] = []
    left: list[str] = []
    for namespace in view.namespaces():
        name = namespace["metadata"]["name"]
        labels = {**labels_of(namespace), "kubernetes.io/metadata.name": name}
        served = bool(webhook) and selects(selector, labels) and annotations_of(namespace).get(INJECT) != "false"
        (chosen if served else left).append(name)
    return chosen, left
