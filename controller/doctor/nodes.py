"""The node driver: its object, its pods on every node, the kubelets that know it, and the images that they run."""

from __future__ import annotations

from collections import Counter

from controller.admission.names import DRIVER
from controller.doctor.view import (
    DAEMON_SETS,
    NODES,
    View,
    failed,
    few,
    is_ready,
    labels_of,
    warned,
    well,
    why_not_ready,
)
from controller.kube.resources import Resource, Tree
from resultsfs.cli.checks import Check

_CSI_DRIVERS = Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver")
_CSI_NODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode")
_OURS = ("holder", "driver", "mounter", "controller")
_KEEPING_OUT = ("NoSchedule", "NoExecute")


def csi_driver(view: View) -> Check:
    """The object that tells Kubernetes how to treat the driver's volumes."""
    found = view.find(_CSI_DRIVERS, DRIVER)
    if found is None:
        said = f"there is no CSIDriver {DRIVER}: pods with a volume stay in ContainerCreating"
        return failed("csi-driver", said, view.upgrade)
    spec = found.get("spec") or {}
    wrong = [
        what
        for what, fine in (
            ("podInfoOnMount is not true", spec.get("podInfoOnMount") is True),
            ("attachRequired is not false", spec.get("attachRequired") is False),
            ("Ephemeral is not in volumeLifecycleModes", "Ephemeral" in (spec.get("volumeLifecycleModes") or [])),
        )
        if not fine
    ]
    if wrong:
        cure = f"kubectl delete csidriver {DRIVER}, then {view.upgrade}"
        return failed("csi-driver", f"CSIDriver {DRIVER}: {', '.join(wrong)}", cure)
    return well("csi-driver", f"CSIDriver {DRIVER}: volumes are ephemeral, the kubelet tells whose they are")


def holder(view: View) -> Check:
    """A holder on every node, without which nothing can be mounted there."""
    return _everywhere(view, "holder", "holder")


def node_driver(view: View) -> Check:
    """Driver and mounter on every node, without which TaskRun pods wait there."""
    return _everywhere(view, "node-driver", "node")


def _everywhere(view: View, name: str, component: str) -> Check:
    daemon_set = f"resultsfs-{component}"
    found = view.find(DAEMON_SETS, daemon_set, view.namespace)
    if found is None:
        return failed(name, f"there is no DaemonSet {view.namespace}/{daemon_set}", view.upgrade)
    pods = {pod["spec"].get("nodeName"): pod for pod in view.pods(component) if not _leaving(pod)}
    wanted = [node["metadata"]["name"] for node in view.all_of(NODES) if _may_run_pods(node)]
    none = [node for node in wanted if node not in pods]
    unready = [node for node in wanted if node in pods and not is_ready(pods[node])]
    describe = f"kubectl --namespace {view.namespace} describe daemonset {daemon_set}"
    if none:
        cure = f"look at the chart's node.nodeSelector, affinity and tolerations, and at what says no: {describe}"
        return failed(name, f"no pod of {daemon_set} on {few(none)}: TaskRun pods wait there", cure)
    if unready:
        first = pods[sorted(unready)[0]]
        pod = f"--namespace {view.namespace} {first['metadata']['name']}"
        cure = f"kubectl describe pod {pod}; kubectl logs --all-containers {pod}"
        return failed(name, f"{daemon_set} is not ready on {few(unready)}: {why_not_ready(first)}", cure)
    if not wanted:
        return failed(name, "no Linux node takes pods", "kubectl get nodes: uncordon them, or take their taints off")
    return well(name, f"{daemon_set} is ready on all {len(wanted)} Linux nodes that take pods")


def _leaving(pod: Tree) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _may_run_pods(node: Tree) -> bool:
    """Linux, ready, neither cordoned nor tainted against ordinary pods."""
    spec = node.get("spec") or {}
    kept_out = any(taint.get("effect") in _KEEPING_OUT for taint in spec.get("taints") or [])
    linux = labels_of(node).get("kubernetes.io/os", "linux") == "linux"
    return linux and is_ready(node) and not spec.get("unschedulable") and not kept_out


def registered(view: View) -> Check:
    """Every kubelet where the driver runs knows it."""
    knowing = {
        found["metadata"]["name"]
        for found in view.all_of(_CSI_NODES)
        if any(driver.get("name") == DRIVER for driver in (found.get("spec") or {}).get("drivers") or [])
    }
    wanted = [node["metadata"]["name"] for node in view.all_of(NODES) if _may_run_pods(node)]
    missing = [node for node in wanted if node not in knowing]
    if missing:
        cure = (
            f"kubectl --namespace {view.namespace} logs daemonset/resultsfs-node --container node-driver-registrar; is "
            "kubeletDirectory of the chart the kubelet's?"
        )
        return failed("registered", f"the kubelet does not know {DRIVER} on {few(missing)}", cure)
    return well("registered", f"the kubelets of {len(wanted)} nodes know {DRIVER}")


def versions(view: View) -> Check:
    """The same image everywhere."""
    images: dict[str, Counter[str]] = {}
    for component in ("holder", "node", "controller"):
        for pod in view.pods(component):
            for container in pod["spec"]["containers"]:
                if container["name"] in _OURS:
                    images.setdefault(container["name"], Counter())[container["image"]] += 1
    if not images:
        return failed("versions", "no pod of ours runs", view.upgrade)
    active = {image for name in ("driver", "mounter", "controller") for image in images.get(name, ())}
    if len(active) > 1:
        said = "; ".join(f"{name} {few(list(found))}" for name, found in sorted(images.items()))
        cure = f"wait for the rollout, then {view.upgrade}: driver, mounter and controller are of one version"
        return warned("versions", f"several images: {said}", cure)
    older = set(images.get("holder", ())) - active
    if older and active:
        cure = (
            "fine unless CHANGELOG.md says that the holder changed: docs/operations.md, Upgrade, says how to replace it"
        )
        return warned("versions", f"the holder runs {few(list(older))}, the others {few(list(active))}", cure)
    return well("versions", f"all run {few(list(active or older))}")
