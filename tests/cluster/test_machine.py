"""The machine itself: real pods, services, tokens, webhooks; and a second cluster that is broken and removed."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.dynamic.exceptions import ApiException

from tests.cluster.images import recipes
from tests.cluster.images.importing import load
from tests.cluster.kube import NODE, POD, Kind, Kube, condition_is
from tests.cluster.machine.errors import ClusterError
from tests.cluster.machine.keys import Authority
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.node import started
from tests.cluster.machine.places import Places, places
from tests.cluster.machine.remains import find
from tests.cluster.machine.report import report
from tests.cluster.machine.running import run
from tests.cluster.machine.settings import KUBELET_HOME
from tests.cluster.room import Room
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

CONFIGMAP = Kind("v1", "ConfigMap")
HOOK = Kind("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration")

ANSWER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""

ASK = """
import os, time, urllib.request
end = time.monotonic() + 120
while True:
    try:
        print(urllib.request.urlopen(os.environ["URL"], timeout=10).read().decode())
        break
    except OSError:
        if time.monotonic() > end:
            raise
        time.sleep(0.1)
"""

WHO_AM_I = """
import json, ssl, urllib.request
context = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
request = urllib.request.Request(
    "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews", json.dumps(review).encode(),
    {"Authorization": "Bearer " + open("/token/token").read(), "Content-Type": "application/json"},
)
print(json.load(urllib.request.urlopen(request, context=context, timeout=60))["status"]["userInfo"]["username"])
"""

LABELLER = """
import base64, http.server, json, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        patch = [{"op": "add", "path": "/data", "value": {"by": "webhook"}}]
        review["response"] = {
            "uid": review["request"]["uid"], "allowed": True, "patchType": "JSONPatch",
            "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
        }
        body = json.dumps(review).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/keys/tls.crt", "/keys/tls.key")
server = http.server.HTTPServer(("", 8443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs a Python script once."""
    container = {
        "name": "main",
        "image": recipes.python().reference,
        "command": ["python3", "-u", "-c", script],
        **spec.pop("container", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, **spec},
    }


def service(name: str, port: int, target: int) -> dict[str, Any]:
    """A service of the pods that are labelled with its name."""
    spec = {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def printed(room: Room, manifest: dict[str, Any]) -> str:
    """What a pod printed that ran to its end."""
    name = manifest["metadata"]["name"]
    room.start(manifest)
    ended = room.wait(POD, name, lambda found: found["status"]["phase"] in ("Succeeded", "Failed"), what="an end")
    text = room.kube.logs(name, room.name, "main")
    assert ended["status"]["phase"] == "Succeeded", text
    return text.strip()


def serve(room: Room) -> str:
    """The address of a service in this room that answers `hello`, from the host too."""
    room.start(pod("hello-pod", ANSWER) | {"metadata": {"name": "hello-pod", "labels": {"app": "hello"}}})
    address: str = room.start(service("hello", 80, 8080))["spec"]["clusterIP"]
    room.wait(POD, "hello-pod", condition_is("Ready", "True"), what="Ready")
    eventually(lambda: answers(address), 120)
    return address


def answers(address: str) -> bool:
    """Whether a service answers the host."""
    command = ["curl", "--silent", "--max-time", "10", f"http://{address}"]
    return subprocess.run(command, capture_output=True, check=False).stdout == b"hello"


def test_the_node_is_ready(cluster: Places, kube: Kube) -> None:
    """Every component works and says its version, and the node is Ready with the pinned Kubernetes."""
    found = report(Cluster(cluster))
    assert found.works, found.text()
    assert {line.name for line in found.lines} >= {"etcd", "apiserver", "kubelet", "containerd", "proxy", "dns"}
    assert all(line.version for line in found.lines)
    (node,) = kube.list(NODE)
    assert condition_is("Ready", "True")(node)
    assert node["status"]["nodeInfo"]["kubeletVersion"] == Cluster(cluster).components()["kubelet"].version


def test_a_service_answers_the_host_and_pods(room: Room) -> None:
    """A pod is reached through its service's address from the host, and through its DNS name from another pod."""
    serve(room)
    url = {"name": "URL", "value": f"http://hello.{room.name}.svc.cluster.local"}
    assert printed(room, pod("asking", ASK, container={"env": [url]})) == "hello"


def test_a_projected_token_is_its_service_account(room: Room) -> None:
    """A token projected into a pod lets it talk to the API server as its service account."""
    projected = {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]}
    manifest = pod(
        "who",
        WHO_AM_I,
        volumes=[{"name": "token", "projected": projected}],
        container={"volumeMounts": [{"name": "token", "mountPath": "/token"}]},
    )
    assert printed(room, manifest) == f"system:serviceaccount:{room.name}:default"


def test_the_api_server_asks_a_webhook(room: Room, tmp_path: Path) -> None:
    """The API server reaches a webhook in a pod through its service, and applies what it answers."""
    authority = Authority(tmp_path / "keys")
    pair = authority.server("hook", [f"hook.{room.name}.svc"])
    data = {"tls.crt": _base64(pair.certificate), "tls.key": _base64(pair.key)}
    room.start({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hook"}, "data": data})
    room.start(
        pod(
            "hook",
            LABELLER,
            volumes=[{"name": "keys", "secret": {"secretName": "hook"}}],
            container={"volumeMounts": [{"name": "keys", "mountPath": "/keys"}]},
        )
    )
    room.start(service("hook", 443, 8443))
    room.wait(POD, "hook", condition_is("Ready", "True"), what="Ready")
    name = f"{room.name}.resultsfs.test"
    hook = {
        "name": name,
        "clientConfig": {
            "service": {"namespace": room.name, "name": "hook"},
            "caBundle": _base64(authority.pair.certificate),
        },
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": room.name}},
        "objectSelector": {"matchLabels": {"hooked": "yes"}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    room.kube.apply(
        [{"apiVersion": HOOK.api_version, "kind": HOOK.kind, "metadata": {"name": name}, "webhooks": [hook]}]
    )
    try:
        eventually(lambda: _mutated(room), 120)
    finally:
        room.kube.delete(HOOK, name)


def _mutated(room: Room) -> bool:
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"generateName": "x-", "labels": {"hooked": "yes"}},
    }
    try:
        return room.start(manifest).get("data") == {"by": "webhook"}
    except ApiException as error:  # the webhook does not serve yet
        if "failed calling webhook" not in str(error.body):
            raise
        return False


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_mounts_of_a_driver_reach_other_pods(room: Room, cluster: Places) -> None:
    """What a privileged pod mounts below the kubelet's directory is seen by the node and by a pod started before."""
    place = f"{KUBELET_HOME}/{room.name}"
    directory = [{"name": "shared", "hostPath": {"path": place, "type": "DirectoryOrCreate"}}]

    def mounted(propagation: str) -> list[dict[str, str]]:
        return [{"name": "shared", "mountPath": place, "mountPropagation": propagation}]

    watching = f"import os, time\nwhile not os.path.ismount('{place}/mount'): time.sleep(0.05)\nprint('seen')"
    room.start(pod("watching", watching, volumes=directory, container={"volumeMounts": mounted("HostToContainer")}))
    room.wait(POD, "watching", condition_is("Ready", "True"), what="Ready")
    script = (
        f"mkdir -p {place}/mount && mount -t tmpfs none {place}/mount && test -c /dev/fuse && touch {place}/mount/x"
    )
    driver = {
        "image": recipes.busybox().reference,
        "command": ["sh", "-ec", script],
        "securityContext": {"privileged": True},
        "volumeMounts": mounted("Bidirectional"),
    }
    printed(room, pod("driver", "", volumes=directory, container=driver))
    inside = Cluster(cluster).node
    try:
        room.wait(POD, "watching", lambda found: found["status"]["phase"] == "Succeeded", what="the mount seen")
        assert (inside.root / place.lstrip("/") / "mount" / "x").exists()
        assert not (cluster.home / "kubelet" / room.name / "mount" / "x").exists(), "the host sees the mount"
    finally:
        inside.run(["sh", "-c", f"umount {place}/mount; rmdir {place}/mount {place}"])


def test_pod_security_is_enforced(room: Room) -> None:
    """In a namespace that enforces `restricted`, the API server refuses a privileged pod."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    room.kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": room.name, "labels": labels}}])
    with pytest.raises(ApiException, match="violates PodSecurity"):
        room.start(pod("privileged", "", container={"securityContext": {"privileged": True}}))


@pytest.fixture(scope="module")
def second(cluster: Places) -> Iterator[Cluster]:
    """A second cluster of this checkout, gone after these tests."""
    found = Cluster(places("broken by tests"))
    yield found
    found.down()


@pytest.fixture
def spare(second: Cluster) -> Cluster:
    """The second cluster, without Tekton, up and whole, for a test that breaks it."""
    second.up()
    load([recipes.python()], second.ctr())
    return second


@pytest.fixture
def spare_room(spare: Cluster) -> Iterator[Room]:
    """A namespace in the second cluster."""
    with Kube(spare.places.kubeconfig) as kube, Room(kube, "room") as found:
        yield found


def test_two_clusters_do_not_collide(cluster: Places, spare: Cluster) -> None:
    """Two clusters run on one machine at the same time, with addresses, names and directories of their own."""
    first = Cluster(cluster)
    assert report(first).works and report(spare).works
    assert not first.network().cidr.overlaps(spare.network().cidr)
    assert len({cluster.home, spare.places.home}) == len({cluster.link, spare.places.link}) == 2


@pytest.mark.parametrize("component", ["kubelet", "apiserver", "containerd", "etcd", "proxy"])
def test_pods_outlive_a_restart(spare: Cluster, spare_room: Room, component: str) -> None:
    """A component that is killed and started anew finds a pod running, which never stopped."""
    address = serve(spare_room)
    before = spare_room.kube.get(POD, "hello-pod", spare_room.name)
    spare.restart(component, signal.SIGKILL)
    assert answers(address)
    after = spare_room.wait(POD, "hello-pod", condition_is("Ready", "True"), what="Ready")
    containers = [found["status"]["containerStatuses"][0] for found in (before, after)]
    assert containers[0]["containerID"] == containers[1]["containerID"]
    assert printed(spare_room, pod("after", "print('still works')")) == "still works"


def test_status_says_what_is_wrong(spare: Cluster) -> None:
    """Of a component that was killed, `status` names the signal and the log, and `up` starts it again."""
    spare.node.signal("scheduler", signal.SIGKILL)
    eventually(lambda: spare.node.ended("scheduler"), 120)
    found = report(spare)
    (broken,) = (line for line in found.lines if not line.works)
    assert not found.works
    assert broken.name == "scheduler"
    assert "ended with code -9" in broken.detail and str(spare.places.logs / "scheduler.log") in broken.detail
    spare.up()
    assert report(spare).works


def test_an_unknown_component_is_refused(spare: Cluster) -> None:
    """`restart` of what is no component names those that are."""
    with pytest.raises(ClusterError, match="'kublet' is no component: one of etcd, containerd, "):
        spare.restart("kublet")


def test_the_machine_keeps_its_own_settings(spare: Cluster) -> None:
    """What a kubelet sets for a whole machine, such as what follows a kernel panic, is set in the node alone."""
    tunable = Path("/proc/sys/kernel/panic")
    inside = run([*spare.node.enter(), "cat", tunable])
    assert inside.strip() == "10"
    assert tunable.read_text().strip() != "10"


@pytest.mark.parametrize("state", ["whole", "crashed", "forgotten"])
def test_down_leaves_nothing(spare: Cluster, state: str) -> None:
    """After `down`, also of a node that crashed or whose records are empty, no process, mount, cgroup, interface,
    route or file is left."""
    with Kube(spare.places.kubeconfig) as kube:
        serve(Room(kube, "left").__enter__())  # not left: `down` is to remove it with its pod
    before = find(spare.places)
    assert before.processes and before.groups and before.interfaces and before.directories
    running = {pid: since for pid in before.processes if (since := started(pid)) is not None}
    assert len(running) > 10, "the components, two containers and their shims"
    init = spare.node.pid
    assert init is not None
    network = str(spare.network().cidr)
    if state == "crashed":
        os.kill(init, signal.SIGKILL)
        eventually(lambda: spare.node.pid is None, 120)
        with pytest.raises(ClusterError, match=r"the node does not answer at .*run `make cluster-up`"):
            spare.restart("etcd")
    if state == "forgotten":
        spare.places.node_record.write_text("")
        spare.places.network_record.write_text("")
    if state != "whole":
        told = report(spare).text()
        assert "The cluster is not whole; left of it: " in told
        assert len(told) < 4000, "one group a hierarchy, not those of every pod"
    spare.down()
    assert not find(spare.places), str(find(spare.places))
    assert network not in run(["ip", "route"])
    assert "KUBE-" not in run(["iptables-save"])
    assert not [pid for pid, since in running.items() if started(pid) == since]
    spare.down()
    assert "There is no cluster" in report(spare).text()


def test_status_is_json_for_programs(cluster: Places) -> None:
    """`status --json` is the report as JSON, with the kubeconfig's path."""
    found = json.loads(report(Cluster(cluster)).json())
    assert found["works"] is True
    assert Path(found["places"]["kubeconfig"]) == cluster.kubeconfig
