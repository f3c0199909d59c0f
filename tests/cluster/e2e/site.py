"""An installation that is operated: its store is an S3 server of our own, and each of its parts can be ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from resultsfs.store_names import OWNER
from tests.cluster import programs
from tests.cluster.images import recipes
from tests.cluster.images.archive import Image
from tests.cluster.images.importing import load
from tests.cluster.images.layers import Entry, cached, write_entries
from tests.cluster.installation import STATE, SYSTEM, Installation
from tests.cluster.kube import Kind, Manifest
from tests.cluster.machine.lifecycle import Cluster
from tests.support.rclone import ACCESS_KEY, SECRET_KEY, S3Server, serving
from tests.support.waiting import eventually

SECONDS = 600.0
"""A deadline; only a broken cluster ever reaches it."""
_SECRET = Kind("v1", "Secret")
_COMPONENTS = {"driver": "node", "mounter": "node", "holder": "holder", "controller": "controller"}


class Site:
    """The installation, and what an operator does to it."""

    def __init__(self, cluster: Cluster, installation: Installation, store: S3Server) -> None:
        self.cluster, self.installation, self.kube = cluster, installation, installation.kube
        self._store, self._bucket = store, store.bucket()

    def install(self, **values: Any) -> None:
        """helm upgrade to the store's settings and what is given beyond them; returns when everything serves."""
        settings = {
            "store": f"s3://{self._bucket}",
            "s3-endpoint": self._store.endpoint,
            "s3-region": "us-east-1",
            "s3-addressing-style": "path",
            "garbage-grace": "5s",
            "garbage-interval": "30s",
            **values.pop("settings", {}),
        }
        secret = {
            "apiVersion": _SECRET.api_version,
            "kind": _SECRET.kind,
            "metadata": {"name": "store", "namespace": SYSTEM},
            "stringData": {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
        }
        self.kube.apply([secret])
        self.installation.install(settings=settings, store={"secretName": "store"}, **values)

    def install_another_image(self) -> None:
        """helm upgrade to an image that differs, and another setting; holders stay, until their pods are deleted."""
        load([self._other], self.cluster.ctr())
        repository, _, tag = self._other.reference.rpartition(":")
        image = {"repository": repository, "tag": tag, "pullPolicy": "Never"}
        holders, nodes = self.uids("holder"), self.uids("node")
        self.install(image=image, settings={"upload-workers": 3})
        assert self.uids("holder") == holders
        assert not self.uids("node") & nodes

    @cached_property
    def _other(self) -> Image:
        project = recipes.project()
        entries = [Entry("etc/resultsfs-upgraded", content=b"an image of other content\n")]
        layer = cached("upgraded", repr(entries), lambda tar: write_entries(tar, entries))
        return replace(project, layers=(*project.layers, layer))

    def uids(self, component: str) -> set[str]:
        """Of a component's pods."""
        return {pod["metadata"]["uid"] for pod in self.installation.pods(component)}

    def kill(self, *names: str) -> None:
        """SIGKILL a container of each of these programs, all in one moment; returns when all serve again."""
        victims = {name: programs.pids(self.cluster.places, name) for name in names}
        assert all(victims.values()), victims
        before = {name: self._restarts(name) for name in names}
        for found in victims.values():
            os.kill(found[0], signal.SIGKILL)
        for name in names:
            eventually(lambda name=name: self._restarts(name) > before[name], SECONDS)  # type: ignore[misc]
        self.installation.settle()

    def _restarts(self, name: str) -> int:
        """How often containers of a program were started anew, counted when they are ready."""
        found = 0
        for pod in self.installation.pods(_COMPONENTS[name]):
            for container in pod["status"].get("containerStatuses", []):
                if container["name"] == name and container["ready"]:
                    found += container["restartCount"]
        return found

    def replace_controllers(self) -> None:
        """kubectl rollout restart."""
        self.kubectl("rollout", "restart", "deployment/resultsfs-controller", "--namespace", SYSTEM)
        timeout = f"--timeout={SECONDS:.0f}s"
        self.kubectl("rollout", "status", "deployment/resultsfs-controller", "--namespace", SYSTEM, timeout)

    def lose_the_store(self) -> None:
        """The store is away until a mounter has missed it, then back."""
        before = self.metric("resultsfs_store_retries_total")
        self._store.kill()
        try:
            eventually(lambda: self.metric("resultsfs_store_retries_total") > before, SECONDS)
        finally:
            self._store.start()

    def drain(self) -> None:
        """Evict the runs' pods, see that no volume stays of them, and bring the node back.

        Only those: a cluster of one node has nowhere else for controllers, and our PodDisruptionBudget keeps the last
        replica of ours until another one is ready.
        """
        node = self.kube.list(Kind("v1", "Node"))[0]["metadata"]["name"]
        try:
            self.kubectl(
                "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                "--pod-selector=app.kubernetes.io/managed-by=tekton-pipelines", f"--timeout={SECONDS:.0f}s",
            )  # fmt: skip
            eventually(lambda: not self.installation.mounts(), SECONDS)
        finally:
            self.kubectl("uncordon", node)

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints. Raises AssertionError with what it complains of."""
        command = [*self.cluster.kubectl(), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 60, check=False)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def metric(self, name: str) -> float:
        """One of the mounter's that has no labels."""
        (pod,) = self.installation.pods("node")
        with urlopen(f"http://{pod['status']['podIP']}:9811/metrics", timeout=60) as answer:
            for line in answer.read().decode().splitlines():
                key, _, value = line.rpartition(" ")
                if key == name:
                    return float(value)
        raise AssertionError(f"the mounter has no metric {name}")

    def objects(self) -> list[str]:
        """What the store has of runs, finished or not."""
        bucket = self._store.directory / self._bucket
        found = (str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())
        return sorted(path for path in found if path != OWNER)

    def spools(self) -> list[str]:
        """What there is of volumes on the node's disk, half removed ones too."""
        return self.installation.node("ls", "-A", f"{STATE}/volumes").split()

    def directories(self, pods: list[Manifest]) -> list[str]:
        """The kubelet's directories of these pods that are still there."""
        found = self.installation.node("ls", "/var/lib/kubelet/pods").split()
        return [pod["metadata"]["name"] for pod in pods if pod["metadata"]["uid"] in found]


@contextmanager
def operated(cluster: Cluster, installation: Installation, home: Path) -> Iterator[Site]:
    """The installation with a store of its own; as it was afterwards."""
    with serving(home, cluster.network().host) as store:
        site = Site(cluster, installation, store)
        try:
            site.install()
            yield site
        finally:
            installation.install()
            installation.kube.delete(_SECRET, "store", SYSTEM)
