"""What the mounter asks of a real API server as the chart's service account, and what it does when that is away."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.kube.resources import NAMESPACES, TASK_RUNS, Resource
from csi.api import Access, Api, ApiError
from csi.names import POD_NAME, POD_NAMESPACE
from tests.cluster.machine.errors import ClusterError
from tests.controller.apiserver import ApiServer, programs, serving
from tests.controller.replica import install
from tests.support import chart
from tests.support.node import Node, VolumeOf, running
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.apiserver,
    pytest.mark.slow,
    pytest.mark.mount,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root"),
]
ACCOUNT = "resultsfs-node"
CORE = {kind: Resource("", "v1", plural, kind) for kind, plural in (("Pod", "pods"), ("Event", "events"))}
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
RBAC = "rbac.authorization.k8s.io"
ARRAY = json.dumps([f"{number}" * 200 for number in range(40)]).encode()


@dataclass(frozen=True)
class Cluster:
    """An API server, and a node whose mounter asks it."""

    api: ApiServer
    kube: Kube
    node: Node
    namespace: str

    def pod(self, volume: VolumeOf, containers: int, spec: dict[str, Any] | None = None, **task_run: Any) -> None:
        """The pod of a volume, with so many containers, and its TaskRun, with this `spec` if it is to have another."""
        names = f"task-{uuid.uuid4().hex[:8]}"
        kind = {"apiVersion": "tekton.dev/v1", "kind": "TaskRun"}
        tree = {**kind, "metadata": {"name": names}, "spec": {"taskSpec": {"steps": []}} if spec is None else spec}
        made = self.kube.create(TASK_RUNS, self.namespace, tree)
        if task_run:
            self.kube.merge(TASK_RUNS.path(self.namespace, names, "status"), task_run)
        uid = str(made["metadata"]["uid"])
        owner = {**kind, "name": names, "uid": uid, "controller": True}
        step = {"image": "example.invalid/step"}
        pod = {"containers": [{**step, "name": f"c{number}"} for number in range(containers - 1)]}
        pod["initContainers"] = [{**step, "name": "init"}]
        made = self.kube.create(
            CORE["Pod"],
            self.namespace,
            {"metadata": {"name": f"{names}-pod", "ownerReferences": [owner]}, "spec": pod},
        )
        volume.become(uuid.UUID(made["metadata"]["uid"]))
        volume.context |= {POD_NAME: f"{names}-pod", POD_NAMESPACE: self.namespace, "taskrun": names}

    def events(self, reason: str, *names: str) -> list[dict[str, Any]]:
        """The Events with this reason, about objects of these names only if there are any."""
        found = self.kube.list(CORE["Event"], self.namespace).items
        of_reason = [event for event in found if event["reason"] == reason]
        return [event for event in of_reason if not names or event["involvedObject"]["name"] in names]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The API server with Tekton's CRDs and the chart's rights of a node."""
    try:
        programs()
    except ClusterError as error:
        pytest.skip(str(error))
    with serving(tmp_path_factory.mktemp("api")) as server:
        kube = Kube(from_kubeconfig(str(server.admin)))
        install(kube)
        objects = chart.committed()
        account = objects.one("ServiceAccount", ACCOUNT)
        kube.create(ACCOUNTS, account["metadata"]["namespace"], account)
        for kind, plural in (("ClusterRole", "clusterroles"), ("ClusterRoleBinding", "clusterrolebindings")):
            kube.create(Resource(RBAC, "v1", plural, kind), None, objects.one(kind, ACCOUNT))
        kube.close()
        yield server


@pytest.fixture(scope="module")
def cluster(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The API server and a node, with a namespace."""
    home = tmp_path_factory.mktemp("account")
    kube = Kube(from_kubeconfig(str(api.admin)))
    account = chart.committed().one("ServiceAccount", ACCOUNT)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    path = ACCOUNTS.path(account["metadata"]["namespace"], ACCOUNT, "token")
    (home / "token").write_text(kube.post(path, request)["status"]["token"])
    (home / "ca.crt").write_bytes(api.authority.pair.certificate.read_bytes())
    namespace = "team-a"
    kube.create(NAMESPACES, None, {"metadata": {"name": namespace}})
    kube.create(ACCOUNTS, namespace, {"metadata": {"name": "default"}})
    options = ["--api-server", api.url, "--api-ca", str(home / "ca.crt"), "--api-token", str(home / "token")]
    with running(api=options) as node:
        yield Cluster(api, kube, node, namespace)
    kube.close()


def collected(volume: VolumeOf, name: str = "report") -> bytes:
    """What the pod's entrypoint reads."""
    entrypoint = volume.bring_entrypoint()
    return subprocess.run([entrypoint, volume.target / name], capture_output=True, timeout=120, check=False).stdout


def test_declared_types(cluster: Cluster) -> None:
    """A large array is published as a skeleton, for the TaskRun's status says that it is one."""
    volume = cluster.node.volume()
    cluster.pod(
        volume, 2, status={"podName": "p", "taskSpec": {"steps": [], "results": [{"name": "report", "type": "array"}]}}
    )
    (volume.publish() / "report").write_bytes(ARRAY)
    found = json.loads(collected(volume))
    assert len(found) == 40
    assert any(element.startswith("/tekton/results/.ref/") for element in found)
    volume.unpublish()


def test_types_that_come_later(cluster: Cluster) -> None:
    """Tekton writes the taskSpec of a named Task into the status after the TaskRun is there: who asks again finds it."""
    volume = cluster.node.volume()
    cluster.pod(volume, 2, spec={"taskRef": {"name": "a-task"}})
    mounted = volume.publish()
    (mounted / "report").write_bytes(ARRAY)
    assert collected(volume).startswith(b"/tekton/results/.ref/")  # an Event says that the type is not known
    status = {"status": {"podName": "p", "taskSpec": {"steps": [], "results": [{"name": "report", "type": "array"}]}}}
    cluster.kube.merge(TASK_RUNS.path(cluster.namespace, volume.context["taskrun"], "status"), status)
    (mounted / "report").write_bytes(ARRAY.replace(b"1", b"one"))
    assert len(json.loads(collected(volume))) == 40
    volume.unpublish()


def test_the_live_pods_containers_count(cluster: Cluster) -> None:
    """With 12 containers a message has 1024 bytes, although the attribute said 1: what does not fit is spilled."""
    volume = cluster.node.volume(containers="1")
    cluster.pod(volume, 12)
    (volume.publish() / "report").write_bytes(b"x" * 2000)
    assert collected(volume).startswith(b"/tekton/results/.ref/")
    volume.unpublish()


def test_an_unknown_type_is_told(cluster: Cluster) -> None:
    """Without a TaskRun that says a type, content that begins like JSON is a string, and Events say so on the pod."""
    volume = cluster.node.volume()
    cluster.pod(volume, 2)
    volume.context["taskrun"] = "nobody"
    (volume.publish() / "report").write_bytes(ARRAY)
    assert collected(volume).startswith(b"/tekton/results/.ref/")
    about = str(volume.context[POD_NAME]), "nobody"
    eventually(lambda: len(cluster.events("ResultTypeUnknown", *about)) == 2)
    kinds = {event["involvedObject"]["kind"] for event in cluster.events("ResultTypeUnknown", *about)}
    assert kinds == {"Pod", "TaskRun"}
    volume.unpublish()


def test_failures_are_events_on_pod_and_task_run(cluster: Cluster) -> None:
    """A file beyond volume-size-limit is an Event on the pod and its TaskRun, by uid, that names the setting; a
    restarted mounter counts it up."""
    cluster.node.write_settings(volume_size_limit="1MiB")
    cluster.node.mounter.stop()
    cluster.node.start_mounter()
    volume = cluster.node.volume()
    cluster.pod(volume, 2)
    target = volume.publish()
    for turn in (1, 2):
        with pytest.raises(OSError, match="No space left"):
            (target / "large").write_bytes(bytes(2 << 20))
        eventually(lambda: [event["count"] for event in cluster.events("VolumeFull")] == [turn] * 2)  # noqa: B023
        cluster.node.mounter.stop()
        cluster.node.start_mounter()
    for event in cluster.events("VolumeFull"):
        assert "volume-size-limit" in event["message"]
        assert event["type"] == "Warning"
        assert event["involvedObject"]["uid"]
        assert event["source"] == {"component": "csi.resultsfs.dev", "host": "node-1"}
    pods = [event for event in cluster.events("VolumeFull") if event["involvedObject"]["kind"] == "Pod"]
    assert [event["involvedObject"]["uid"] for event in pods] == [str(volume.pod)]
    volume.unpublish()
    cluster.node.write_settings()
    cluster.node.mounter.stop()
    cluster.node.start_mounter()


def test_a_full_disk_is_told(cluster: Cluster) -> None:
    """What is refused so that the node's disk does not fill is an Event on pod and TaskRun that names the setting."""
    cluster.node.write_settings(node_spool_limit="1MiB")
    cluster.node.mounter.stop()
    cluster.node.start_mounter()
    volume = cluster.node.volume()
    cluster.pod(volume, 2)
    with pytest.raises(OSError, match="No space left"):
        (volume.publish() / "large").write_bytes(bytes(2 << 20))
    eventually(lambda: len(cluster.events("NodeDiskFull")) == 2)
    assert all("node-spool-limit" in event["message"] for event in cluster.events("NodeDiskFull"))
    volume.unpublish()
    cluster.node.write_settings()
    cluster.node.mounter.stop()
    cluster.node.start_mounter()


def test_results_that_nobody_serves_are_told(cluster: Cluster) -> None:
    """While no mounter is there the driver tells pod and TaskRun that their results wait; and later that they do not."""
    volume = cluster.node.volume()
    cluster.pod(volume, 2)
    volume.publish()
    cluster.node.mounter.kill9()
    try:
        eventually(lambda: len(cluster.events("ResultsNotServed")) == 2, 120)
    finally:
        cluster.node.start_mounter()
    eventually(lambda: len(cluster.events("ResultsServed")) == 2, 60)
    away, back = cluster.events("ResultsNotServed"), cluster.events("ResultsServed")
    for events, kind in ((away, "Warning"), (back, "Normal")):
        assert {event["involvedObject"]["kind"] for event in events} == {"Pod", "TaskRun"}
        assert {event["type"] for event in events} == {kind}
        assert all(event["involvedObject"]["uid"] for event in events)
    volume.unpublish()
    volume.gone()


def test_the_service_account_has_no_other_rights(cluster: Cluster) -> None:
    """The node's account gets single pods and TaskRuns and writes Events; it lists nothing and reads no Secret."""
    command = Path(f"/proc/{cluster.node.mounter.pid}/cmdline").read_bytes().decode().split("\0")
    options = dict(pairwise(command))
    api = Api(Access(options["--api-server"], options["--api-ca"], options["--api-token"]))
    try:
        for path in ("/api/v1/pods", "/api/v1/secrets", "/api/v1/namespaces/team-a/secrets/x", "/api/v1/nodes"):
            with pytest.raises(ApiError) as error:
                api._call("GET", path)
            assert error.value.status == 403
    finally:
        api.close()


def test_an_api_server_that_is_away(cluster: Cluster) -> None:
    """Collecting goes on while the API server is away, by the volume's attributes; the metrics count it."""
    volume = cluster.node.volume(containers="2")
    cluster.pod(volume, 2)
    (volume.publish() / "report").write_bytes(b"small")
    cluster.api.stop()
    try:
        assert collected(volume) == b"small"
        port = int(cluster.node.mounter.said(r"metrics at port (\d+)")[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert 'resultsfs_errors_total{cause="ApiError"}' in answer.read().decode()
    finally:
        cluster.api.start()
    volume.unpublish()
    volume.gone()
