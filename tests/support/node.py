"""A node: holder, mounter and driver as real processes, and a kubelet's directory for them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml

from csi.names import EPHEMERAL, POD_NAME, POD_NAMESPACE, POD_UID, VOLUMES
from csi.proto import csi_pb2, csi_pb2_grpc
from resultsfs import mountinfo
from tests.support.waiting import eventually

SECONDS = 100.0
"""Deadline of a request; only a broken node ever reaches it."""
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 20_000),  # how long an attempt may take: a busy machine needs more than the pause
    ("grpc.max_reconnect_backoff_ms", 200),
]
_UNEXPECTED = ("Traceback", "failed unexpectedly", "a job of ")
_Mode = csi_pb2.VolumeCapability.AccessMode
CAPABILITY = csi_pb2.VolumeCapability(
    mount=csi_pb2.VolumeCapability.MountVolume(), access_mode=_Mode(mode=_Mode.SINGLE_NODE_WRITER)
)


class Process:
    """One of the node's processes, which can be killed and started again. `log` is what all of them have said."""

    def __init__(self, name: str, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._environment = {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | None = None
        self._before = 0

    def start(self) -> None:
        """Start it; say nothing of when it is ready."""
        self._before = len(self.log())
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                # by a program, not by a function before exec: that would fork, which gRPC does not survive
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def log(self) -> str:
        """All that it and its predecessors have said."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def said(self, pattern: str) -> re.Match[str]:
        """Wait until the running one has said this. Raises AssertionError with its log when it ends before."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            text = self.log()[self._before :]
            found.extend(re.finditer(pattern, text))
            assert found or self.process is None or self.process.poll() is None, f"{self.name} ended:\n{text}"
            return bool(found)

        eventually(look, SECONDS)
        return found[0]

    def kill9(self) -> None:
        """Kill it without warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(SECONDS)
            self.process = None

    def stop(self) -> int:
        """End it in good order; its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.terminate()
        try:
            return process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.name} did not end after SIGTERM:\n{self.log()}") from None

    @property
    def pid(self) -> int:
        """Its pid."""
        assert self.process is not None
        return self.process.pid


class Place:
    """Where a node is, and its driver: `kubelet` is the kubelet's directory, `state` the driver's."""

    def __init__(self, root: Path, channel: grpc.Channel | None = None) -> None:
        self.root = root
        self.kubelet, self.state = root / "kubelet", root / "state"
        self.tools = root / "tekton"
        self._channel = channel

    @property
    def node(self) -> csi_pb2_grpc.NodeStub:
        """The driver's Node service."""
        assert self._channel is not None
        return csi_pb2_grpc.NodeStub(self._channel)

    @property
    def identity(self) -> csi_pb2_grpc.IdentityStub:
        """The driver's Identity service."""
        assert self._channel is not None
        return csi_pb2_grpc.IdentityStub(self._channel)


class Node(Place):
    """`kubelet` is the kubelet's directory, `state` the driver's, `store` where content goes."""

    def __init__(
        self,
        root: Path,
        settings: Mapping[str, object],
        api: list[str],
        environment: Mapping[str, str],
        address: str = "",
    ) -> None:
        super().__init__(root)
        self.store = root / "store"
        self.settings = root / "settings"
        self.socket = root / "csi.sock"
        holder = self.state / "holder" / "holder.sock"
        holder.parent.mkdir(parents=True)
        (self.kubelet / "pods" / str(uuid.uuid4())).mkdir(parents=True)  # the driver's own pod
        self.write_settings(**settings)
        self.tools.mkdir()
        shutil.copy(shutil.which("cat") or "/bin/cat", self.tools / "entrypoint")
        common = [
            "--node-id",
            "node-1",
            "--kubelet",
            str(self.kubelet),
            "--state",
            str(self.state),
            "--holder",
            str(holder),
        ]
        self.holder = Process("holder", ["resultsfs.holder", "--socket", str(holder)], root / "holder.log", environment)
        mounter = ["csi", "mounter", *common, "--settings", str(self.settings), *api]
        mounter += ["--metrics", address or "127.0.0.1:0"]
        self.mounter = Process("mounter", mounter, root / "mounter.log", environment)
        driver = [
            "csi",
            "driver",
            *common,
            "--endpoint",
            f"unix://{self.socket}",
            "--mounter",
            f"http://{address}/healthz" if address else "",
            "--metrics",
            "127.0.0.1:0",
            *api,
        ]
        self.driver = Process("driver", driver, root / "driver.log", environment)
        self.unexpected_log_is_fine = False

    def write_settings(self, **settings: object) -> None:
        """Replace the settings, as a mounted ConfigMap is replaced: by one rename."""
        values = {"store": f"file://{self.store}", "node-disk-reserve": "0", **settings}
        fresh = self.root / f"settings-{uuid.uuid4()}"
        fresh.write_text(yaml.safe_dump({key.replace("_", "-"): value for key, value in values.items()}))
        fresh.replace(self.settings)

    # -- processes ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all three, and wait until they are ready."""
        self.start_holder()
        self.start_mounter()
        self.start_driver()

    def start_holder(self) -> None:
        """Start a holder, and wait until it listens."""
        self.holder.start()
        self.holder.said("listens at")

    def start_mounter(self) -> None:
        """Start a mounter, and wait until it is attached to the holder."""
        self.mounter.start()
        self.mounter.said("attached to the holder")

    def start_driver(self) -> None:
        """Start a driver, and wait until it answers."""
        self.driver.start()
        self.driver.said("listens at")
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"unix:{self.socket}", options=OPTIONS)

    def ports(self) -> dict[str, int]:
        """Where metrics are, by process."""
        return {
            name: int(process.said(r"metrics at port (\d+)")[1])
            for name, process in (("driver", self.driver), ("mounter", self.mounter))
        }

    def close(self) -> None:
        """End all, unmount all."""
        try:
            if self._channel is not None:
                self._channel.close()
            for process in (self.driver, self.mounter, self.holder):
                process.stop()
        finally:
            for process in (self.driver, self.mounter, self.holder):
                process.kill9()
            while left := [mount for mount in mountinfo.mounts() if mount.mountpoint.startswith(f"{self.root}/")]:
                subprocess.run(["umount", "-l", left[-1].mountpoint], check=True)

    def logs(self) -> str:
        """What all processes have said."""
        return "\n".join(f"== {process.name}\n{process.log()}" for process in (self.driver, self.mounter, self.holder))

    def unexpected(self) -> list[str]:
        """Lines of the logs that no node in good order writes."""
        return [line for line in self.logs().splitlines() if any(text in line for text in _UNEXPECTED)]

    # -- requests -----------------------------------------------------------------------------------------

    def volume(self, *, name: str = "tekton-internal-results", **attributes: str) -> VolumeOf:
        """A new pod's volume, which is not published yet; attributes have underscores for dashes."""
        return VolumeOf(self, name, attributes)


class VolumeOf:
    """One pod's volume: its ids, and what the kubelet asks about it."""

    def __init__(self, node: Place, name: str, attributes: Mapping[str, str]) -> None:
        self.node = node
        self.name = name
        self.run = uuid.uuid4()
        self.context: dict[str, str] = {}
        self.become(uuid.uuid4())
        self.context |= {
            EPHEMERAL: "true",
            POD_NAME: "a-pod",
            POD_NAMESPACE: "team-a",
            "results": "report",
            "taskrun": "a-task",
            "run-uid": str(self.run),
            **{key.replace("_", "-"): text for key, text in attributes.items()},
        }

    def become(self, pod: uuid.UUID) -> None:
        """Be the volume of the pod with this UID."""
        self.pod = pod
        self.volume_id = f"csi-{pod.hex}"
        self.pod_directory = self.node.kubelet / "pods" / str(pod)
        self.target = self.pod_directory / VOLUMES / self.name / "mount"
        self.target.parent.mkdir(parents=True)
        self.spool = self.node.state / "volumes" / self.volume_id
        self.context[POD_UID] = str(pod)

    def publish_request(self, **changes: Any) -> csi_pb2.NodePublishVolumeRequest:
        """The kubelet's request, with these fields changed."""
        fields: dict[str, Any] = {
            "volume_id": self.volume_id,
            "target_path": str(self.target),
            "volume_capability": CAPABILITY,
            "volume_context": self.context,
        }
        return csi_pb2.NodePublishVolumeRequest(**(fields | changes))

    def publish(self, **changes: Any) -> Path:
        """Publish it; the target path. Raises grpc.RpcError."""
        self.node.node.NodePublishVolume(self.publish_request(**changes), timeout=SECONDS)
        return self.target

    def unpublish(self, **changes: str) -> None:
        """Unpublish it. Raises grpc.RpcError."""
        fields = {"volume_id": self.volume_id, "target_path": str(self.target)} | changes
        self.node.node.NodeUnpublishVolume(csi_pb2.NodeUnpublishVolumeRequest(**fields), timeout=SECONDS)

    def mounts(self) -> list[mountinfo.Mount]:
        """What is mounted at the target."""
        return [mount for mount in mountinfo.mounts() if mount.mountpoint == str(self.target)]

    def bring_entrypoint(self) -> Path:
        """Put an executable where Tekton's place-tools container puts the entrypoint; a `cat`."""
        directory = self.pod_directory / "volumes/kubernetes.io~empty-dir/tekton-internal-bin"
        directory.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self.node.tools / "entrypoint", directory / "entrypoint"))

    def gone(self) -> None:
        """Assert that nothing is left of it: no mount, no target, no spool."""
        assert self.mounts() == []
        assert not os.path.lexists(self.target)
        assert not self.spool.exists()


@contextmanager
def running(
    settings: Mapping[str, object] | None = None,
    api: list[str] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    start: bool = True,
    address: str = "",
) -> Iterator[Node]:
    """A node, gone afterwards with processes, mounts and directories, also when the test fails. With an `address`, host
    and port, the mounter's health is there, and the driver asks for it.

    Raises AssertionError if one of its processes has logged what it did not foresee.
    """
    with tempfile.TemporaryDirectory(prefix="resultsfs-node-") as name:
        root = Path(name)
        root.chmod(0o711)
        node = Node(root, settings or {}, ["--no-api"] if api is None else api, environment or {}, address)
        try:
            if start:
                node.start()
            yield node
        finally:
            node.close()
        if not node.unexpected_log_is_fine:
            assert node.unexpected() == [], node.logs()
