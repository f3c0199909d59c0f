"""What the rendered manifests let each component do: no more than is written down here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from controller.identity import PATHS
from resultsfs.server.capabilities import NEEDED
from tests.support.chart import Tree, committed

OBJECTS = committed()

Right = tuple[str, str, str]
"""`group/resource`, its name ("" for all of them), verb."""


def _rights(role: Tree) -> set[Right]:
    return {
        (f"{group}/{resource}", name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def _expected(table: dict[str, str]) -> set[Right]:
    found = set()
    for what, verbs in table.items():
        resource, _, name = what.partition(":")
        found |= {(resource, name, verb) for verb in verbs.split()}
    return found


NODE = {"/pods": "get", "tekton.dev/taskruns": "get", "/events": "create patch"}
CONTROLLER = {
    "tekton.dev/taskruns": "get list watch",
    "tekton.dev/pipelineruns": "get list watch",
    "tekton.dev/customruns": "get list",
    "tekton.dev/tasks": "get",
    "tekton.dev/pipelines": "get",
    "/namespaces": "get",
    "authentication.k8s.io/tokenreviews": "create",
    "authorization.k8s.io/subjectaccessreviews": "create",
    "events.k8s.io/events": "create",
    "admissionregistration.k8s.io/mutatingwebhookconfigurations:resultsfs": "get patch",
}
CONTROLLER_OWN = {
    "coordination.k8s.io/leases": "create",
    "coordination.k8s.io/leases:resultsfs-controller": "get update",
    "/secrets:resultsfs-controller-certificate": "get update",
}
CONTROLLER_TEKTON = {"/configmaps:feature-flags": "get"}


def test_rights_are_the_ones_written_down() -> None:
    """Each role has exactly the rights that its component uses, none by a wildcard."""
    assert _rights(OBJECTS.one("ClusterRole", "resultsfs-node")) == _expected(NODE)
    assert _rights(OBJECTS.one("ClusterRole", "resultsfs-controller")) == _expected(CONTROLLER)
    assert _rights(OBJECTS.one("Role", "resultsfs-controller", "resultsfs")) == _expected(CONTROLLER_OWN)
    assert _rights(OBJECTS.one("Role", "resultsfs-controller", "tekton-pipelines")) == _expected(CONTROLLER_TEKTON)
    roles = [tree for tree in OBJECTS.all if tree["kind"] in ("Role", "ClusterRole")]
    assert len(roles) == 4


def test_bindings_name_their_component_alone() -> None:
    """Each role is bound to one service account, and the holder's to none."""
    bindings = [tree for tree in OBJECTS.all if tree["kind"].endswith("RoleBinding")]
    for binding in bindings:
        assert [subject["name"] for subject in binding["subjects"]] == [binding["roleRef"]["name"]]
    assert len(bindings) == 4


def test_the_controller_knows_its_webhooks() -> None:
    """The controller has a path for each webhook of the configuration, which leaves it and the authority to it alone."""
    webhooks = OBJECTS.one("MutatingWebhookConfiguration", "resultsfs")["webhooks"]
    assert {one["name"] for one in webhooks} == PATHS.keys()
    service = {"name": "resultsfs-controller", "namespace": "resultsfs"}
    assert [one["clientConfig"] for one in webhooks] == [{"service": service}] * len(webhooks)


def test_the_holder_cannot_speak() -> None:
    """The only privileged container has no token of the API, no environment, and a policy that allows no traffic."""
    holder = OBJECTS.pods()["resultsfs-holder"]
    assert holder["automountServiceAccountToken"] is False
    assert OBJECTS.one("ServiceAccount", "resultsfs-holder")["automountServiceAccountToken"] is False
    policy = OBJECTS.one("NetworkPolicy", "resultsfs-holder")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in policy
    assert "egress" not in policy


def test_tokens_are_where_they_are_needed() -> None:
    """Of the node's containers driver and mounter have a token of the API, and the sidecars have none."""
    node = OBJECTS.pods()["resultsfs-node"]
    assert node["automountServiceAccountToken"] is False
    having = [
        container["name"]
        for container in node["containers"]
        for mount in container["volumeMounts"]
        if mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    ]
    assert having == ["driver", "mounter"]


def test_one_container_is_privileged() -> None:
    """No other container than the holder is privileged or may become so; each drops all capabilities first."""
    privileged = set()
    for pod, spec in OBJECTS.pods().items():
        assert not spec.get("hostNetwork")
        assert not spec.get("hostIPC")
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            if context.get("privileged"):
                privileged.add((pod, container["name"]))
            else:
                assert context["allowPrivilegeEscalation"] is False
                assert context["capabilities"]["drop"] == ["ALL"]
    assert privileged == {("resultsfs-holder", "holder")}


def test_the_controller_is_an_ordinary_pod() -> None:
    """It runs as nobody in particular, with nothing of the host's."""
    spec = OBJECTS.pods()["resultsfs-controller"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert not spec.get("hostPID")
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]


@pytest.mark.parametrize("name", ["resultsfs-holder", "resultsfs-node"])
def test_node_pods_are_everywhere(name: str) -> None:
    """They tolerate every taint and are not evicted for others."""
    spec = OBJECTS.pods()[name]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}


def test_replacing_pods_loses_nothing() -> None:
    """Node pods are replaced by an upgrade, holders only by hand; new controllers are ready before old ones go."""
    assert OBJECTS.one("DaemonSet", "resultsfs-node")["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    assert OBJECTS.one("DaemonSet", "resultsfs-holder")["spec"]["updateStrategy"] == {"type": "OnDelete"}
    deployment = OBJECTS.one("Deployment", "resultsfs-controller")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    budget = OBJECTS.one("PodDisruptionBudget", "resultsfs-controller")["spec"]
    assert budget["selector"]["matchLabels"] == deployment["selector"]["matchLabels"]


def test_the_driver_is_not_restarted_for_others() -> None:
    """Its liveness is its own answer; CSI's Probe, which says whether holder and mounter are there, is its readiness."""
    driver = OBJECTS.container("resultsfs-node", "driver")
    ports = {port["name"]: port["containerPort"] for port in driver["ports"]}
    probe = OBJECTS.container("resultsfs-node", "livenessprobe")
    assert f"--health-port={ports['healthz']}" in probe["args"]
    assert f"--metrics=:{ports['driver-metrics']}" in driver["args"]
    assert driver["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "driver-metrics"}
    assert driver["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "healthz"}


def test_the_csi_driver_object() -> None:
    """Inline volumes only, with the pod's name from the kubelet, nothing to attach, no chown through the mount."""
    found = OBJECTS.one("CSIDriver", "csi.resultsfs.dev")
    assert found["metadata"]["labels"]["security.openshift.io/csi-ephemeral-volume-profile"] == "restricted"
    spec = found["spec"]
    assert spec["volumeLifecycleModes"] == ["Ephemeral"]
    assert (spec["podInfoOnMount"], spec["attachRequired"], spec["requiresRepublish"]) == (True, False, False)
    assert spec["fsGroupPolicy"] == "None"
    assert "tokenRequests" not in spec


def test_mounts_reach_the_host_from_the_holder_alone() -> None:
    """The kubelet's directory is Bidirectional in the holder; driver and mounter see its mounts, and see them go."""
    found = {
        (pod, container["name"]): mount["mountPropagation"]
        for pod, spec in OBJECTS.pods().items()
        for container in spec["containers"]
        for mount in container.get("volumeMounts", [])
        if "mountPropagation" in mount
    }
    assert found == {
        ("resultsfs-holder", "holder"): "Bidirectional",
        ("resultsfs-node", "driver"): "HostToContainer",
        ("resultsfs-node", "mounter"): "HostToContainer",
    }


def test_failure_policies() -> None:
    """Pods go on without their volume when the webhook is away, runs that may hold references do not."""
    webhooks = {hook["name"]: hook for hook in OBJECTS.one("MutatingWebhookConfiguration", "resultsfs")["webhooks"]}
    assert {name: hook["failurePolicy"] for name, hook in webhooks.items()} == {
        "pods.resultsfs.dev": "Ignore",
        "pods-again.resultsfs.dev": "Ignore",
        "runs.resultsfs.dev": "Fail",
    }
    assert webhooks["pods.resultsfs.dev"]["reinvocationPolicy"] == "IfNeeded"
    for hook in webhooks.values():
        assert hook["matchConditions"]
        assert hook["sideEffects"] == "None"


def _capabilities(container: str) -> list[str]:
    found: list[str] = OBJECTS.container("resultsfs-node", container)["securityContext"]["capabilities"].get("add", [])
    return found


def test_the_mounter_has_what_serving_takes() -> None:
    """The chart gives the mounter the capabilities that the server keeps, and the sidecars none."""
    assert sorted(_capabilities("mounter")) == sorted(NEEDED)
    assert _capabilities("node-driver-registrar") == _capabilities("livenessprobe") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, which takes root")
def test_the_driver_can_remove_what_strangers_left(tmp_path: Path) -> None:
    """With the chart's capabilities the driver removes a spool whose directories are closed, sticky and others'."""
    spool = tmp_path / "spool"
    closed, sticky = spool / "closed", spool / "sticky"
    for directory in (closed, sticky):
        (directory / "inner").mkdir(parents=True)
        (directory / "inner" / "file").write_text("x")
    for path, user, mode in (
        (closed / "inner" / "file", 1001, 0o000),
        (closed / "inner", 1001, 0o000),
        (closed, 1001, 0o000),
        (sticky / "inner" / "file", 1002, 0o400),
        (sticky / "inner", 1002, 0o1700),
        (sticky, 1001, 0o1777),
        (spool, 1003, 0o500),
    ):
        os.chown(path, user, user)
        os.chmod(path, mode)
    program = (
        "import sys; from csi import trees; from resultsfs.server.capabilities import keep; "
        "keep(*sys.argv[2:]); trees.remove(sys.argv[1])"
    )
    needed = [sys.executable, "-c", program, str(spool)]
    without = subprocess.run(needed, capture_output=True, text=True, timeout=60)
    assert "Permission" in without.stderr
    subprocess.run([*needed, *_capabilities("driver")], check=True, timeout=60)
    assert not spool.exists()
