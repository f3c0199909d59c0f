"""The chart as Helm sees it: what it refuses, and what its values change."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chart import CHART, MANIFESTS, NAMESPACE, ROOT, SETTINGS, Helm, Objects, Refused, Tree, committed
from tests.support.chart import helm as helm

pytestmark = [pytest.mark.go, pytest.mark.slow, pytest.mark.timeout(1900)]

STORE: dict[str, Any] = {"settings": {"store": "s3://bucket/prefix"}}


def _with(**values: Any) -> dict[str, Any]:
    return {**STORE, **values}


def test_helm_finds_nothing_to_complain_about(helm: Helm) -> None:
    """`helm lint --strict` passes with the defaults."""
    assert "1 chart(s) linted, 0 chart(s) failed" in helm.run("lint", "--strict", str(CHART))


@pytest.mark.parametrize("file", [SETTINGS, MANIFESTS], ids=lambda file: file.stem)
def test_the_manifests_are_what_the_chart_renders(helm: Helm, file: Path) -> None:
    """deploy/manifests is what `make manifests` would write."""
    command = [str(ROOT / "scripts" / "manifests"), file.stem]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout == file.read_text(encoding="utf-8"), "run `make manifests`"


def test_the_manifests_are_the_whole_chart(helm: Helm) -> None:
    """What the two files have is what the chart has, each object in one of them; the namespace is theirs alone."""
    values = yaml.safe_load(MANIFESTS.with_name("values.yaml").read_text())
    found = helm.render(values, "--namespace", "resultsfs")
    assert sorted(map(_name, committed().all)) == sorted([("Namespace", "resultsfs", ""), *map(_name, found.all)])
    assert {tree["kind"] for tree in yaml.safe_load_all(SETTINGS.read_text())} == {"Namespace", "ConfigMap"}


def _name(tree: Tree) -> tuple[str, str, str]:
    return tree["kind"], tree["metadata"]["name"], tree["metadata"].get("namespace", "")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"setings": {}}, "'setings'"),
        (_with(holder={"replicas": 2}), "'replicas'"),
        (_with(node={"mounter": {"limits": {}}}), "'limits'"),
        (_with(store={"bucket": "x"}), "'bucket'"),
        (_with(image={"pullPolicy": "Sometimes"}), "/image/pullPolicy"),
        (_with(image={"digest": "latest"}), "/image/digest"),
        (_with(controller={"replicas": 0}), "/controller/replicas"),
        (_with(kubeletDirectory="var/lib/kubelet"), "/kubeletDirectory"),
        (_with(stateDirectory="/"), "/stateDirectory"),
        (_with(admission={"podFailurePolicy": "Retry"}), "/admission/podFailurePolicy"),
        (
            _with(node={"mounter": {"resources": {"limits": {"memory": "1 GB"}}}}),
            "/node/mounter/resources/limits/memory",
        ),
        ({"settings": {"stor": "s3://bucket"}}, "'stor'"),
        ({"settings": {"store": "s3://b", "result-size-threshold": "4 pages"}}, "/settings/result-size-threshold"),
        ({"settings": {"store": "s3://b", "result-size-threshold": 20}}, "/settings/result-size-threshold"),
        ({"settings": {"store": "s3://b", "spill-delay": "1 week"}}, "/settings/spill-delay"),
        ({"settings": {"store": "s3://b", "s3-sse": "rot13"}}, "/settings/s3-sse"),
        ({"settings": {}}, "settings.store"),
        ({"settings": {"store": "memory://x"}}, "settings.store"),
        ({"settings": {"store": "file:///data"}}, "store.pvc.claimName"),
        (_with(store={"pvc": {"claimName": "results"}}), "settings.store"),
        ({"settings": {"store": "s3://b", "tekton-namespace": "tekton"}}, "tekton.namespace"),
    ],
    ids=str,
)
def test_bad_values_are_refused_by_name(helm: Helm, values: dict[str, Any], key: str) -> None:
    """A value that is unknown, of another kind, or at odds with another is refused, and the message names it."""
    with pytest.raises(Refused) as refused:
        helm.render(values)
    assert key in str(refused.value)


def test_settings_are_text_in_the_config_map(helm: Helm) -> None:
    """Numbers and truth values become the texts that the programs read, large numbers without an exponent."""
    values = {"settings": {"store": "s3://b", "cache-size-limit": 10737418240, "observe": True, "spill-delay": "2s"}}
    found = helm.render(values).one("ConfigMap", "resultsfs")["data"]
    assert found == {
        "store": "s3://b",
        "cache-size-limit": "10737418240",
        "observe": "true",
        "spill-delay": "2s",
        "tekton-namespace": "tekton-pipelines",
    }


def test_everything_is_in_the_release_s_namespace(helm: Helm) -> None:
    """What has a namespace has the release's, but for the one Role that reads Tekton's feature-flags."""
    elsewhere = [
        (tree["kind"], tree["metadata"]["namespace"])
        for tree in helm.render(STORE).all
        if tree["metadata"].get("namespace", NAMESPACE) != NAMESPACE
    ]
    assert elsewhere == [("Role", "tekton-pipelines"), ("RoleBinding", "tekton-pipelines")]


def test_a_claim_as_store(helm: Helm) -> None:
    """`store.pvc` mounts the claim at /store in mounter and controller alone, who have the same user for its files."""
    found = helm.render({"store": {"pvc": {"claimName": "results"}}})
    assert found.one("ConfigMap", "resultsfs")["data"]["store"] == "file:///store"
    having = {
        (pod, container["name"])
        for pod, spec in found.pods().items()
        for container in spec["containers"]
        if {"name": "store", "mountPath": "/store"} in container["volumeMounts"]
    }
    assert having == {("resultsfs-node", "mounter"), ("resultsfs-controller", "controller")}
    for pod in ("resultsfs-node", "resultsfs-controller"):
        assert {"name": "store", "persistentVolumeClaim": {"claimName": "results"}} in found.pods()[pod]["volumes"]
    assert found.container("resultsfs-node", "mounter")["securityContext"]["runAsUser"] == 0
    controller = found.pods()["resultsfs-controller"]
    assert controller["securityContext"]["runAsUser"] == 0
    assert controller["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_secret_and_an_authority_for_the_store(helm: Helm) -> None:
    """Credentials and certificates reach mounter and controller, and nobody else."""
    store = {"secretName": "bucket-key", "caBundle": {"configMapName": "corporate-ca"}}
    found = helm.render(_with(store=store))
    for pod, spec in found.pods().items():
        for container in spec["containers"]:
            trusted = (pod, container["name"]) in {
                ("resultsfs-node", "mounter"),
                ("resultsfs-controller", "controller"),
            }
            assert ("envFrom" in container) == trusted
            names = {entry["name"] for entry in container.get("env", [])}
            assert ("AWS_CA_BUNDLE" in names) == trusted
            if trusted:
                assert container["envFrom"] == [{"secretRef": {"name": "bucket-key"}}]


def test_workload_identity(helm: Helm) -> None:
    """Annotations of the service accounts are the way without a Secret; the holder's account has none."""
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/results"}
    values = _with(node={"serviceAccount": {"annotations": role}}, controller={"serviceAccount": {"annotations": role}})
    found = helm.render(values)
    assert found.one("ServiceAccount", "resultsfs-node")["metadata"]["annotations"] == role
    assert found.one("ServiceAccount", "resultsfs-controller")["metadata"]["annotations"] == role
    assert "annotations" not in found.one("ServiceAccount", "resultsfs-holder")["metadata"]


def test_cert_manager(helm: Helm) -> None:
    """With cert-manager there is a Certificate, whose authority and Secret are not the controller's to write."""
    found = helm.render(_with(certificate={"certManager": {"enabled": True}}))
    certificate = found.one("Certificate", "resultsfs-controller")["spec"]
    assert certificate["issuerRef"] == {"name": "resultsfs", "kind": "Issuer"}
    assert certificate["dnsNames"][0] == f"resultsfs-controller.{NAMESPACE}.svc"
    annotations = found.one("MutatingWebhookConfiguration", "resultsfs")["metadata"]["annotations"]
    assert annotations == {"cert-manager.io/inject-ca-from": f"{NAMESPACE}/resultsfs-controller"}
    secrets = [
        rule
        for rule in found.one("Role", "resultsfs-controller", NAMESPACE)["rules"]
        if rule["resources"] == ["secrets"]
    ]
    assert [rule["resourceNames"] for rule in secrets] == [["resultsfs-controller-token"]]
    assert [tree["metadata"]["name"] for tree in found.all if tree["kind"] == "Secret"] == [
        "resultsfs-controller-token"
    ]
    arguments = found.container("resultsfs-controller", "controller")["args"]
    assert "--token-secret=resultsfs-controller-token" in arguments
    issuer = {"name": "corporate", "kind": "ClusterIssuer"}
    found = helm.render(_with(certificate={"certManager": {"enabled": True, "issuerRef": issuer}}))
    assert found.one("Certificate", "resultsfs-controller")["spec"]["issuerRef"] == issuer
    assert "Issuer" not in found.kinds()


def test_openshift(helm: Helm) -> None:
    """On OpenShift the node's service accounts, and no others, get the privileged constraints."""
    assert "resultsfs-privileged" not in {tree["metadata"]["name"] for tree in helm.render(STORE).all}
    found = helm.render(_with(openshift={"enabled": True}))
    binding = found.one("RoleBinding", "resultsfs-privileged")
    assert binding["roleRef"]["name"] == "system:openshift:scc:privileged"
    assert {subject["name"] for subject in binding["subjects"]} == {"resultsfs-holder", "resultsfs-node"}
    mounter = found.container("resultsfs-node", "mounter")
    assert mounter["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}


def test_another_kubelet_directory(helm: Helm) -> None:
    """No path of the default directory is left when the kubelet's is elsewhere."""
    found = helm.render(_with(kubeletDirectory="/var/lib/k0s/kubelet"))
    node = found.pods()["resultsfs-node"]
    paths = {volume["hostPath"]["path"] for volume in node["volumes"] if "hostPath" in volume}
    assert {path for path in paths if "kubelet" in path} == {
        "/var/lib/k0s/kubelet/plugins/csi.resultsfs.dev",
        "/var/lib/k0s/kubelet/plugins_registry",
        "/var/lib/k0s/kubelet/pods",
    }
    registrar = found.container("resultsfs-node", "node-driver-registrar")
    path = "/var/lib/k0s/kubelet/plugins/csi.resultsfs.dev/csi.sock"
    assert f"--kubelet-registration-path={path}" in registrar["args"]
    assert "/var/lib/kubelet" not in str(found.all)


def test_namespaces_are_chosen(helm: Helm) -> None:
    """A selector for namespaces holds for pods, and never reaches the release's own or kube-system.

    Content is put back wherever it was taken from: PipelineRuns may be in flight where the selector chose before.
    """
    selector = {"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}
    found = helm.render(_with(admission={"namespaceSelector": selector}))
    own = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", NAMESPACE]}
    chosen = {"matchLabels": {"team": "a"}, "matchExpressions": [*selector["matchExpressions"], own]}
    webhooks = found.one("MutatingWebhookConfiguration", "resultsfs")["webhooks"]
    assert {webhook["name"]: webhook["namespaceSelector"] for webhook in webhooks} == {
        "pods.resultsfs.dev": chosen,
        "pods-again.resultsfs.dev": chosen,
        "runs.resultsfs.dev": {"matchExpressions": [own]},
    }


def test_monitoring(helm: Helm) -> None:
    """What the Prometheus Operator and Grafana read is rendered when asked for, from the files of the chart."""
    on = {"enabled": True}
    found = helm.render(_with(monitoring={"podMonitor": on, "prometheusRule": on, "dashboard": on}))
    ports = {
        port["name"]
        for spec in found.pods().values()
        for container in spec["containers"]
        for port in container.get("ports", [])
    }
    monitored = {entry["port"] for entry in found.one("PodMonitor", "resultsfs")["spec"]["podMetricsEndpoints"]}
    assert monitored <= ports
    assert {"PrometheusRule", "PodMonitor"} <= found.kinds()
    assert found.one("PrometheusRule", "resultsfs")["spec"]["groups"]
    assert found.one("ConfigMap", "resultsfs-dashboard")["metadata"]["labels"]["grafana_dashboard"] == "1"
    plain = helm.render(STORE).kinds()
    assert plain.isdisjoint({"PodMonitor", "PrometheusRule", "Issuer", "Certificate", "Namespace"})


def test_without_the_controller(helm: Helm) -> None:
    """The driver alone: no webhook, no Deployment, no account and no rights of the controller."""
    found = helm.render(_with(controller={"enabled": False}))
    assert found.kinds().isdisjoint({"Deployment", "MutatingWebhookConfiguration", "PodDisruptionBudget", "Secret"})
    assert not [tree for tree in found.all if tree["metadata"]["name"].startswith("resultsfs-controller")]


def test_an_image_by_its_digest(helm: Helm) -> None:
    """A digest counts instead of a tag, in all of the project's containers."""
    digest = "sha256:" + "0" * 64
    found = helm.render(_with(image={"repository": "mirror.example/resultsfs", "tag": "x", "digest": digest}))
    assert _images(found) == {f"mirror.example/resultsfs@{digest}"}


def _images(found: Objects) -> set[str]:
    ours = {"holder", "driver", "mounter", "controller"}
    return {
        container["image"]
        for spec in found.pods().values()
        for container in spec["containers"]
        if container["name"] in ours
    }
