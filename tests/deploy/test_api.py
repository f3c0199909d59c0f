"""The chart and the manifests on a real API server: what it takes, lets through and refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from controller.doctor.view import View
from controller.identity import PATHS
from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from resultsfs.reference import Reference
from tests.deploy.apiserver import TEKTON, Cluster, Refused, Tree
from tests.deploy.apiserver import cluster as cluster
from tests.support.chart import CHART, Helm, committed
from tests.support.chart import helm as helm
from tests.support.waiting import eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.slow, pytest.mark.timeout(900)]

REFERENCE = str(Reference.of(uuid4(), "ab" * 32))


def _everything(cluster: Cluster) -> set[str]:
    """Every object that the manifests could have made, of any kind that they have, wherever it is."""
    names: set[str] = set()
    for kind in sorted(committed().kinds() - {"Namespace"}):
        names |= set(cluster.kubectl("get", kind, "--all-namespaces", "--output=name").split())
    return {name for name in names if "resultsfs" in name}


@pytest.fixture(scope="module")
def installed(cluster: Cluster, helm: Helm) -> Iterator[Cluster]:
    """The chart installed as docs/operations.md says, and taken away again."""
    try:
        cluster.helm(
            "install", "resultsfs", str(CHART), "--namespace=resultsfs", "--create-namespace",
            "--set=settings.store=s3://bucket/prefix",
        )  # fmt: skip
        yield cluster
    finally:
        cluster.helm("uninstall", "resultsfs", "--namespace=resultsfs", "--ignore-not-found")
        # The namespace stays: nobody here deletes what is in one.


def test_an_upgrade_keeps_what_the_controller_made(installed: Cluster) -> None:
    """Certificate, authority and the token in the webhooks' path are still there after helm upgrade."""
    secret = {"data": {"tls.crt": "eA==", "tokens": "eQ=="}}
    installed.kubectl(
        "patch", "secret", "resultsfs-controller-certificate", "-n", "resultsfs", "-p", json.dumps(secret)
    )
    name = ("mutatingwebhookconfiguration", "resultsfs")
    webhooks = installed.get(*name)["webhooks"]
    operations = []
    for index, webhook in enumerate(webhooks):
        path = f"{PATHS[webhook['name']]}/token"
        operations += [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/service/path", "value": path},
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": _authority(installed)},
        ]
    installed.kubectl("patch", *name, "--type=json", "-p", json.dumps(operations))
    before = installed.get(*name)["webhooks"]
    installed.helm(
        "upgrade", "resultsfs", str(CHART), "--namespace=resultsfs", "--reset-then-reuse-values",
        "--set=controller.replicas=3",
    )  # fmt: skip
    assert installed.get("deployment", "resultsfs-controller", "-n", "resultsfs")["spec"]["replicas"] == 3
    assert installed.get(*name)["webhooks"] == before
    assert installed.get("secret", "resultsfs-controller-certificate", "-n", "resultsfs")["data"] == secret["data"]


def test_drivers_may_go_first(installed: Cluster) -> None:
    """An upgrade leaves a controller that is held back held back, so that the node drivers are replaced before it."""
    of = ("deployment/resultsfs-controller", "-n", "resultsfs")
    installed.kubectl("rollout", "pause", *of)
    try:
        installed.helm(
            "upgrade",
            "resultsfs",
            str(CHART),
            "--namespace=resultsfs",
            "--reset-then-reuse-values",
            "--set=image.tag=next",
        )
        held = installed.get(*of)["spec"]
        assert held["paused"] is True
        assert held["template"]["spec"]["containers"][0]["image"] == "resultsfs:next"
    finally:
        installed.kubectl("rollout", "resume", *of)


def test_the_doctor_advises_helm(installed: Cluster) -> None:
    """Where Helm installed it, what is gone comes back by Helm; the advice is taken, word by word."""
    kube = Kube(from_kubeconfig(installed.environment["KUBECONFIG"]))
    try:
        advice = View(kube, "resultsfs").upgrade
    finally:
        kube.close()
    installed.kubectl("delete", "csidriver", "csi.resultsfs.dev")
    assert advice.startswith("helm ")
    installed.helm(*advice.split()[1:])
    installed.get("csidriver", "csi.resultsfs.dev")


def _authority(cluster: Cluster) -> str:
    config = yaml.safe_load(Path(cluster.environment["KUBECONFIG"]).read_text())
    found: str = config["clusters"][0]["cluster"]["certificate-authority-data"]
    return found


# -- who may use the driver -------------------------------------------------------------------------------


def _pod(namespace: str, volume: str = "tekton-internal-results", **changes: Any) -> Tree:
    attributes = {"results": "a", "taskrun": "build", "run-uid": str(uuid4())}
    owner = {"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "name": "build", "uid": str(uuid4()), "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"pod-{uuid4()}",
            "namespace": namespace,
            "ownerReferences": changes.get("owners", [owner]),
        },
        "spec": {
            "containers": [{"name": "step", "image": "busybox"}],
            "volumes": [
                {
                    "name": volume,
                    "csi": {
                        "driver": changes.get("driver", "csi.resultsfs.dev"),
                        "volumeAttributes": changes.get("attributes", attributes),
                    },
                }
            ],
        },
    }


@pytest.fixture
def guarded(installed: Cluster) -> str:
    """A namespace in which the policy is in force."""
    name = f"team-{uuid4()}"
    installed.kubectl("create", "namespace", name)

    def refused() -> bool:
        try:
            installed.create(_pod(name))
        except Refused:
            return True
        return False

    eventually(refused)
    return name


def test_tekton_s_pods_may_have_volumes(installed: Cluster, guarded: str) -> None:
    """A pod of a TaskRun that Tekton makes, with the volume of its own TaskRun, is admitted."""
    installed.create(_pod(guarded), TEKTON)


@pytest.mark.parametrize(
    ("pod", "user", "said"),
    [
        ({}, "", "kubernetes-admin is not Tekton"),
        ({}, "system:serviceaccount:team:default", "team:default is not Tekton"),
        ({"volume": "stolen"}, TEKTON, "names itself (stolen)"),
        ({"owners": []}, TEKTON, "must name the TaskRun"),
        ({"attributes": {"taskrun": "another", "results": "a"}}, TEKTON, "must name the TaskRun"),
        ({"attributes": {}}, TEKTON, "must name the TaskRun"),
    ],
    ids=["by hand", "by another account", "in a podTemplate", "of nobody", "of another TaskRun", "without attributes"],
)
def test_other_pods_may_not(installed: Cluster, guarded: str, pod: Tree, user: str, said: str) -> None:
    """A volume of the driver in any other pod is refused, with a message that says why."""
    if user.endswith("team:default"):
        binding = f"team-{uuid4()}"
        installed.kubectl("create", "clusterrolebinding", binding, "--clusterrole=cluster-admin", f"--user={user}")
    with pytest.raises(Refused) as refused:
        installed.create(_pod(guarded, **pod), user)
    assert said in str(refused.value)


def test_a_task_s_volume_by_the_name_of_tekton_s_own(installed: Cluster, guarded: str) -> None:
    """A Task that gives its volume Tekton's name makes a pod with two of them, which nobody admits."""
    pod = _pod(guarded)
    stolen = _pod(guarded, attributes={"results": "a", "taskrun": "build", "run-uid": str(uuid4())})
    pod["spec"]["volumes"] += stolen["spec"]["volumes"]
    with pytest.raises(Refused, match="Duplicate value"):
        installed.create(pod, TEKTON)


@pytest.mark.parametrize("kind", ["ReplicaSet", "Job"])
def test_what_kubernetes_makes_for_others_has_none(installed: Cluster, guarded: str, kind: str) -> None:
    """Pods of workloads are made by Kubernetes' own controllers, which are not Tekton."""
    user = f"system:serviceaccount:kube-system:{kind.lower()}-controller"
    owner = {"apiVersion": "apps/v1", "kind": kind, "name": "build", "uid": str(uuid4()), "controller": True}
    binding = f"kube-{uuid4()}"
    installed.kubectl("create", "clusterrolebinding", binding, "--clusterrole=cluster-admin", f"--user={user}")
    with pytest.raises(Refused, match="is not Tekton"):
        installed.create(_pod(guarded, owners=[owner]), user)


def test_other_drivers_are_not_our_business(installed: Cluster, guarded: str) -> None:
    """Pods with another driver's volumes are left alone."""
    installed.create(_pod(guarded, driver="other.example.com", owners=[]))


def test_a_namespace_for_handwritten_volumes(installed: Cluster, guarded: str) -> None:
    """Whoever may label a namespace may allow hand-written volumes in it."""
    installed.kubectl("label", "namespace", guarded, "resultsfs.dev/allow-handwritten-volumes=true")

    def admitted() -> bool:
        try:
            installed.create(_pod(guarded, owners=[]))
        except Refused:
            return False
        return True

    eventually(admitted)


# -- which runs the controller is asked about -------------------------------------------------------------


def _run(kind: str, namespace: str, value: Any = None, **changes: Any) -> Tree:
    version = "v1beta1" if kind == "CustomRun" else "v1"
    reference = {"TaskRun": "taskRef", "PipelineRun": "pipelineRef", "CustomRun": "customRef"}[kind]
    spec: Tree = {reference: {"name": "x", **({"kind": "K", "apiVersion": "e.com/v1"} if kind == "CustomRun" else {})}}
    if value is not None:
        spec["params"] = [{"name": "p", "value": value}]
    return {
        "apiVersion": f"tekton.dev/{version}",
        "kind": kind,
        "metadata": {"name": f"r-{uuid4()}", "namespace": namespace, **changes.get("metadata", {})},
        "spec": {**spec, **changes.get("spec", {})},
    }


@pytest.fixture
def strict(installed: Cluster) -> str:
    """A namespace in which runs with references are refused, since no controller answers."""
    name = f"team-{uuid4()}"
    installed.kubectl("create", "namespace", name)

    def refused() -> bool:
        try:
            installed.create(_run("TaskRun", name, REFERENCE))
        except Refused:
            return True
        return False

    eventually(refused)
    return name


OWNER = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": "p", "uid": str(uuid4())}
EMBEDDED = {"taskRef": None, "taskSpec": {"steps": [{"name": "a", "image": "busybox"}]}}


@pytest.mark.parametrize("kind", ["TaskRun", "PipelineRun", "CustomRun"])
@pytest.mark.parametrize(
    "value",
    [REFERENCE, f"see {REFERENCE}.", ["a", REFERENCE], {"a": "b", "c": REFERENCE}],
    ids=["text", "within a text", "array", "object"],
)
def test_without_the_controller_no_reference_gets_through(
    installed: Cluster, strict: str, kind: str, value: Any
) -> None:
    """A run whose params hold a reference waits for the controller, wherever in the value it is."""
    with pytest.raises(Refused, match=r"failed calling webhook \"runs\.resultsfs\.dev\""):
        installed.create(_run(kind, strict, value))


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"ownerReferences": [OWNER]}, "spec": EMBEDDED},
        {"metadata": {"annotations": {"resultsfs.dev/resolved": "{}"}}},
        {"metadata": {"annotations": {"resultsfs.dev/references": "[]"}}},
    ],
    ids=["embedded by a pipeline", "marked as resolved", "marked as reading"],
)
def test_what_may_hold_references_elsewhere_waits_too(installed: Cluster, strict: str, changes: Tree) -> None:
    """So does a run with an embedded spec that Tekton made, and one with the webhook's own annotations."""
    with pytest.raises(Refused, match="failed calling webhook"):
        installed.create(_run("TaskRun", strict, "x", **changes))


@pytest.mark.parametrize("kind", ["TaskRun", "PipelineRun", "CustomRun"])
@pytest.mark.parametrize(
    "value",
    [None, "", "plain", "/tekton/results/report", [], ["a", ""], {"a": "b"}],
    ids=["none", "empty", "text", "path", "no elements", "array", "object"],
)
def test_without_the_controller_other_runs_go_on(installed: Cluster, strict: str, kind: str, value: Any) -> None:
    """A run without a reference does not depend on the controller."""
    installed.create(_run(kind, strict, value))


def test_without_the_controller_embedded_tasks_of_one_s_own_go_on(installed: Cluster, strict: str) -> None:
    """A TaskRun that a person writes, with its Task inside, does not depend on the controller either."""
    installed.create(_run("TaskRun", strict, "x", spec=EMBEDDED))


def test_without_the_controller_pods_go_on(installed: Cluster, strict: str) -> None:
    """A TaskRun's pod is made as it is when the webhook for pods does not answer."""
    pod = _pod(strict, owners=_pod(strict)["metadata"]["ownerReferences"])
    pod["metadata"]["labels"] = {"tekton.dev/taskRun": "build"}
    pod["spec"]["volumes"] = [{"name": "tekton-internal-results", "emptyDir": {}}]
    installed.create(pod, TEKTON)


# -- the last, for they take the installation away ---------------------------------------------------------


def test_uninstalling_leaves_nothing(installed: Cluster) -> None:
    """helm install and helm uninstall leave no object behind, in no namespace."""
    assert len(_everything(installed)) > 20
    installed.helm("uninstall", "resultsfs", "--namespace=resultsfs")
    assert _everything(installed) == set()
