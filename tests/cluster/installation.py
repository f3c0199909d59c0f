"""resultsfs installed on the cluster by its chart, with a claim on the node's disk as its store."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import yaml

from csi.holder import Holder
from tests.cluster import artefacts
from tests.cluster.images import recipes
from tests.cluster.kube import DEPLOYMENT, NAMESPACE, NODE, PIPELINERUN, POD, Kind, Kube, Manifest, condition_is
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.settings import DISK
from tests.support.chart import CHART, ROOT
from tests.support.waiting import eventually

SYSTEM = "resultsfs"
LABEL = "resultsfs.test/enabled"
"""Namespaces with this label get volumes: the tests of stock Tekton go on beside."""
HANDWRITTEN = "resultsfs.dev/allow-handwritten-volumes"
STATE = f"{DISK}/resultsfs"
STORE = f"{DISK}/resultsfs-store"
DRIVER = "csi.resultsfs.dev"
PLUGIN = f"/var/lib/kubelet/plugins/{DRIVER}"
READY = condition_is("Ready", "True")
AVAILABLE = condition_is("Available", "True")

DAEMONSET = Kind("apps/v1", "DaemonSet")
CSI_NODE = Kind("storage.k8s.io/v1", "CSINode")
VOLUME = Kind("v1", "PersistentVolume")
_DEADLINE = 300.0
_BACK = 400.0
"""Seconds; the kubelet lets a container that ends again and again wait for five minutes."""
_COMMANDS = {"holder": b"resultsfs.holder", "driver": b"csi\0driver", "mounter": b"csi\0mounter"}


class Installation:
    """The chart's release `resultsfs`, and the node as the host sees it."""

    def __init__(self, cluster: Cluster, kube: Kube) -> None:
        self._cluster, self.kube = cluster, kube
        self._image = recipes.project().reference  # as it was loaded: sources may be edited while tests run

    def install(self, **values: Any) -> None:
        """helm install or upgrade, and wait until everything serves."""
        self._prepare()
        text = yaml.safe_dump({**self._values(), **values})
        self.helm("upgrade", "--install", "resultsfs", str(CHART), "--namespace", SYSTEM, "--values=-", stdin=text)
        self.settle()

    def settle(self) -> None:
        """Wait until all pods of the release serve, and the kubelet knows the driver."""
        for name in ("resultsfs-holder", "resultsfs-node"):
            self.kube.wait(DAEMONSET, name, _rolled_out, SYSTEM, deadline=_DEADLINE, what="to be on every node")
        self.kube.wait(DEPLOYMENT, "resultsfs-controller", AVAILABLE, SYSTEM, deadline=_DEADLINE, what="a replica")
        eventually(lambda: DRIVER in self.drivers(), _DEADLINE)

    def retire(self) -> None:
        """The first step of uninstalling in docs/operations.md: pods get no volume, runs their content still."""
        chart = ("upgrade", "resultsfs", str(CHART), "--namespace", SYSTEM, "--reset-then-reuse-values")
        self.helm(*chart, "--set=settings.observe=true")
        deployment = ("--namespace", SYSTEM, "deployment", "resultsfs-controller")
        self.kubectl("rollout", "restart", *deployment)
        self.kubectl("rollout", "status", "--timeout=5m", *deployment)

    def retired(self) -> bool:
        """The second step: whether no pod has a volume, and no PipelineRun goes on."""
        pods = self.kube.list(POD, field_selector="status.phase!=Succeeded,status.phase!=Failed")
        volumes = (volume for pod in pods for volume in pod["spec"].get("volumes") or [])
        runs = self.kube.list(PIPELINERUN)
        return not any(volume.get("csi", {}).get("driver") == DRIVER for volume in volumes) and all(
            run.get("status", {}).get("completionTime") for run in runs
        )

    def uninstall(self) -> None:
        """As docs/operations.md says, and the store's content goes too. Nothing may be in use that does not end."""
        self.retire()
        self.take_away()

    def take_away(self) -> None:
        """The steps of uninstalling that follow the first: wait, then take away the release and what is on the nodes."""
        eventually(self.retired, _DEADLINE)
        eventually(lambda: not self.volumes(), _DEADLINE)
        self.helm("uninstall", "resultsfs", "--namespace", SYSTEM, "--cascade=foreground", "--wait")
        for node in self.kube.list(NODE):
            what = ("rm", "-rf", STATE, PLUGIN)
            image = recipes.busybox().reference
            self.kubectl(
                "debug", f"node/{node['metadata']['name']}", "--namespace", SYSTEM, "--attach", "--profile=sysadmin",
                f"--image={image}", "--", "chroot", "/host", *what,
            )  # fmt: skip
        done = ("--for=jsonpath={.status.phase}=Succeeded", "--timeout=2m", "pod", "--all")
        self.kubectl("--namespace", SYSTEM, "wait", *done)
        assert not self.node("sh", "-c", f"ls -d {STATE} {PLUGIN} 2> /dev/null; true")
        self.remove()

    def remove(self) -> None:
        """Take away at once what is there, whole or not, and the store's content: for an installation nobody uses."""
        self.kube.delete(Kind("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"), "resultsfs")
        self.helm("uninstall", "resultsfs", "--namespace", SYSTEM, "--ignore-not-found")
        self.kube.delete(NAMESPACE, SYSTEM)
        self.kube.wait_gone(NAMESPACE, SYSTEM, deadline=_DEADLINE)
        self.kube.delete(VOLUME, "resultsfs-store")
        self.node("rm", "-rf", STATE, STORE, PLUGIN)

    def kubectl(self, *words: str) -> str:
        """What kubectl prints, as the administrator. Raises AssertionError with what it complains of."""
        command = [*self._cluster.kubectl(), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
        return done.stdout

    def helm(self, *arguments: str, stdin: str | None = None) -> str:
        """What helm prints. Raises AssertionError with what it complains of."""
        command = [str(ROOT / "scripts" / "helm"), *arguments]
        environment = {**os.environ, "KUBECONFIG": str(self._cluster.places.kubeconfig)}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=600, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def node(self, *command: str) -> str:
        """What a command prints that runs on the node."""
        return self._cluster.node.run(command)

    def mounts(self) -> list[str]:
        """Lines of the node's mount table about our volumes."""
        table = self.node("cat", "/proc/self/mountinfo").splitlines()
        return [line for line in table if " /var/lib/kubelet/" in line and "fuse.resultsfs" in line]

    def volumes(self) -> list[str]:
        """Volumes that have a directory on the node."""
        return self.node("sh", "-c", f"ls {STATE}/volumes").split()

    def served(self) -> bool:
        """Whether each volume on the node is served."""
        socket = f"{self._cluster.node.root}{STATE}/holder/holder.sock"
        try:
            return Holder(socket, "").served() >= set(self.volumes())
        except (ConnectionError, TimeoutError):
            return False

    def processes(self, name: str) -> set[str]:
        """Pids, as the node numbers them, of the holder, the driver or the mounter."""
        found, ending = set(), b"-m\0" + _COMMANDS[name]
        for place in (self._cluster.node.root / "proc").glob("[0-9]*"):
            with suppress(OSError):
                if ending in (place / "cmdline").read_bytes():
                    found.add(place.name)
        return found

    def signal(self, number: int, *names: str) -> None:
        """Send a signal to the process of each name, to all at once."""
        found = [self.processes(name) for name in names]
        assert all(len(pids) == 1 for pids in found), found
        self.node("kill", f"-{number}", *(pid for pids in found for pid in pids))

    def kill(self, *names: str) -> None:
        """Kill the process of each name, and wait until others have taken their places and serve."""
        before = {name: self.processes(name) for name in names}
        self.signal(9, *names)
        eventually(lambda: all(len(self.processes(name) - pids) == 1 for name, pids in before.items()), _BACK)
        eventually(self.served, _BACK)
        self.settle()

    def restarts(self, component: str) -> dict[str, int]:
        """How often each container of a component's pods was restarted."""
        statuses = [status for pod in self.pods(component) for status in pod["status"].get("containerStatuses", [])]
        return {status["name"]: status["restartCount"] for status in statuses}

    def drivers(self) -> set[str]:
        """The CSI drivers that the kubelet knows."""
        found = self.kube.list(CSI_NODE)
        return {driver["name"] for node in found for driver in node["spec"].get("drivers") or []}

    def replace(self, component: str) -> None:
        """Delete a component's pods, and wait until their successors serve."""
        old = self.pods(component)
        for pod in old:
            self.kube.delete(POD, pod["metadata"]["name"], SYSTEM)
        for pod in old:
            self.kube.wait_gone(POD, pod["metadata"]["name"], SYSTEM)
        eventually(lambda: any(READY(pod) for pod in self.pods(component)), _DEADLINE)
        self.settle()

    def pods(self, component: str) -> list[Manifest]:
        """A component's pods."""
        return self.kube.list(POD, SYSTEM, label_selector=f"app.kubernetes.io/component={component}")

    def _prepare(self) -> None:
        security = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "warn")}
        size = {"storage": "10Gi"}
        modes = ["ReadWriteMany"]
        self.kube.apply(
            [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": security}},
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": "resultsfs-store"},
                    "spec": {
                        "capacity": size,
                        "accessModes": modes,
                        "storageClassName": "",
                        "hostPath": {"path": STORE, "type": "DirectoryOrCreate"},
                        "claimRef": {"namespace": SYSTEM, "name": "store"},
                    },
                },
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": "store", "namespace": SYSTEM},
                    "spec": {
                        "accessModes": modes,
                        "storageClassName": "",
                        "volumeName": "resultsfs-store",
                        "resources": {"requests": size},
                    },
                },
            ]
        )

    def _values(self) -> dict[str, Any]:
        repository, _, tag = self._image.rpartition(":")
        return {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "node": {
                "registrar": {"image": recipes.sidecar("registrar").reference},
                "livenessProbe": {"image": recipes.sidecar("livenessprobe").reference},
            },
            "stateDirectory": STATE,
            "store": {"pvc": {"claimName": "store"}},
            "admission": {"namespaceSelector": {"matchLabels": {LABEL: "true"}}},
        }


@contextmanager
def installed(cluster: Cluster, kube: Kube) -> Iterator[Installation]:
    """Installed, and taken away again with all that it left."""
    found = Installation(cluster, kube)
    try:
        with artefacts.kept(kube, SYSTEM):
            found.install()
        yield found
    finally:
        found.remove()


def _rolled_out(daemonset: Manifest) -> bool:
    status: dict[str, int] = daemonset.get("status", {})
    wanted = status.get("desiredNumberScheduled", 0)
    on_delete: bool = daemonset["spec"]["updateStrategy"]["type"] == "OnDelete"
    generation: int = daemonset["metadata"]["generation"]
    return (
        wanted > 0
        and status.get("observedGeneration") == generation
        and status.get("numberReady") == wanted
        and (on_delete or status.get("updatedNumberScheduled") == wanted)
    )
