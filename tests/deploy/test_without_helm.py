"""The plain manifests on a real API server, by the words of docs/operations.md."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from controller.doctor.view import View
from controller.identity import PATHS, Identity, Place
from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from tests.deploy.apiserver import Cluster, Refused
from tests.deploy.apiserver import cluster as cluster
from tests.support.chart import MANIFESTS, ROOT, Tree

pytestmark = [pytest.mark.apiserver, pytest.mark.slow, pytest.mark.timeout(900)]

SECTION = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").split("\n### Without Helm\n")[1].split("\n#")[0]
INSTALL, UNINSTALL = re.findall(r"^```\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
AGAIN = INSTALL.strip().splitlines()[-1]
"""The last command, which an upgrade repeats."""


@pytest.fixture
def applied(cluster: Cluster) -> Iterator[Cluster]:
    """What the documents' commands make; all but the namespace is taken away again."""
    try:
        cluster.shell(INSTALL)
        yield cluster
    finally:
        cluster.kubectl("delete", f"--filename={MANIFESTS}", "--ignore-not-found")
        cluster.kubectl("delete", "configmap/resultsfs", "secret/resultsfs-store", "-n", "resultsfs")


def _controller(cluster: Cluster) -> None:
    """Do what a replica does first: make a certificate and a token, and register both."""
    kube = Kube(from_kubeconfig(cluster.environment["KUBECONFIG"]))
    try:
        hosts = ["resultsfs-controller.resultsfs.svc"]
        place = Place("resultsfs", "resultsfs-controller-certificate", "resultsfs", hosts)
        assert Identity(kube, place).look() is not None
    finally:
        kube.close()


def _clients(cluster: Cluster) -> dict[str, Tree]:
    found = cluster.get("mutatingwebhookconfiguration", "resultsfs")["webhooks"]
    return {one["name"]: one["clientConfig"] for one in found}


def test_applying_again_takes_nothing_away(applied: Cluster) -> None:
    """An upgrade is in conflict with nobody, and leaves the settings, and what the controller registered, as they are."""
    _controller(applied)
    clients = _clients(applied)
    assert all(client["service"]["path"].startswith(f"{PATHS[name]}/") for name, client in clients.items())
    assert all(client["caBundle"] for client in clients.values())
    secret = applied.get("secret", "resultsfs-controller-certificate", "-n", "resultsfs")["data"]
    store = '{"data": {"store": "s3://mine", "observe": "true"}}'
    applied.kubectl("patch", "configmap", "resultsfs", "-n", "resultsfs", "-p", store)
    applied.kubectl("delete", "csidriver", "csi.resultsfs.dev")
    applied.shell(AGAIN)
    applied.get("csidriver", "csi.resultsfs.dev")
    settings = applied.get("configmap", "resultsfs", "-n", "resultsfs")["data"]
    assert settings == {"store": "s3://mine", "observe": "true", "tekton-namespace": "tekton-pipelines"}
    assert _clients(applied) == clients
    assert applied.get("secret", "resultsfs-controller-certificate", "-n", "resultsfs")["data"] == secret


def test_what_is_applied(applied: Cluster) -> None:
    """The images are those of the registry that the command names, and a strict API server knows every field."""
    images = {
        container["image"]
        for kind, name in (("daemonset", "node"), ("daemonset", "holder"), ("deployment", "controller"))
        for container in applied.get(kind, f"resultsfs-{name}", "-n", "resultsfs")["spec"]["template"]["spec"][
            "containers"
        ]
    }
    assert len([image for image in images if image.startswith("registry.example.com/resultsfs:")]) == 1
    assert not [image for image in images if image.startswith("resultsfs:")]
    applied.shell(f"{AGAIN} --validate=strict")
    applied.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=deploy/manifests/settings.yaml"
    )


def test_everything_but_the_settings_is_deleted(applied: Cluster) -> None:
    """The command for it names every object but the namespace and the settings (nobody collects garbage here: a dry run)."""
    deleted = applied.shell(f"{UNINSTALL.strip()} --dry-run=server").splitlines()
    assert len(deleted) == len([tree for tree in yaml.safe_load_all(MANIFESTS.read_text()) if tree])
    assert applied.get("configmap", "resultsfs", "-n", "resultsfs")["data"]["store"] == "s3://resultsfs"


def test_the_doctor_advises_what_is_done_here(applied: Cluster) -> None:
    """What the doctor would have done where something is gone is the document's command, but for the registry's name."""
    kube = Kube(from_kubeconfig(applied.environment["KUBECONFIG"]))
    try:
        advice = View(kube, "resultsfs").upgrade
    finally:
        kube.close()
    assert advice.replace("REGISTRY", "registry.example.com") == AGAIN


def test_what_another_hand_changed_is_named(applied: Cluster) -> None:
    """Applying again does not go over what somebody changed by hand: it names the field, as the document says."""
    replicas = '{"spec": {"replicas": 3}}'
    applied.kubectl("patch", "deployment", "resultsfs-controller", "-n", "resultsfs", "-p", replicas)
    with pytest.raises(Refused, match=r"conflict with \"kubectl-patch\".*spec\.replicas"):
        applied.shell(AGAIN)
