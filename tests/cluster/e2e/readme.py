"""resultsfs installed by the two commands of README.md, its store an S3 server of this machine, and the doctor's look."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes.dynamic.exceptions import NotFoundError

from tests.cluster import artefacts
from tests.cluster.installation import STATE, SYSTEM, Installation
from tests.cluster.kube import NAMESPACE, Kube
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import Places
from tests.support.chart import ROOT
from tests.support.rclone import ACCESS_KEY, SECRET_KEY, S3Server, serving

SECTION = "## Install on a cluster"
DOCTOR = Path(sys.executable).with_name("resultsfs")


def commands() -> list[list[str]]:
    """The words of the commands in README.md's section on installing."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"\n{SECTION}\n")[2]
    blocks = section.split("```")[1::2]
    (block,) = (block for block in blocks if block.lstrip().startswith("helm"))
    lines = block.replace("\\\n", " ").strip().splitlines()
    return [shlex.split(line) for line in lines]


class Finding(dict[str, dict[str, str]]):
    """The doctor's lines by their names; `code` is its exit code."""

    code = 0

    def of(self, level: str) -> dict[str, str]:
        """What was found, by name, of this level."""
        return {name: f"{line['found']} ({line['advice']})" for name, line in self.items() if line["level"] == level}


class ByReadme(Installation):
    """As README.md says, but for image and store, and for what this cluster has in other places."""

    def __init__(self, cluster: Cluster, kube: Kube, store: S3Server) -> None:
        super().__init__(cluster, kube)
        self.store = store
        self.bucket = store.bucket()

    def install(self, **values: Any) -> None:
        """The two commands, one after the other, and wait until everything serves."""
        helm, kubectl = commands()
        assert (helm[:2], kubectl[:2]) == (["helm", "install"], ["kubectl", "label"])
        repository, _, self._tag = self._image.rpartition(":")
        theirs = ("image.repository=registry.example.com/resultsfs", "settings.store=s3://bucket/prefix")
        ours = (f"image.repository={repository}", f"settings.store=s3://{self.bucket}/mission")
        replaced = [ours[theirs.index(word)] if word in theirs else word for word in helm]
        assert len(set(replaced) & set(ours)) == 2, helm
        self.helm(*replaced[1:], "--values=-", stdin=yaml.safe_dump({**self._values(), **values}))
        self.kubectl(*kubectl[1:])
        self.settle()

    def _values(self) -> dict[str, Any]:
        """Where this cluster is another than README.md's reader's: no registry, a store of its own, one disk."""
        found = super()._values()
        environment = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        env = [{"name": name, "value": value} for name, value in environment.items()]
        return {
            "image": {"tag": self._tag, "pullPolicy": "Never"},
            "node": {**found["node"], "mounter": {"env": env}},
            "controller": {"env": env},
            "stateDirectory": STATE,
            "settings": {
                "s3-endpoint": self.store.endpoint,
                "s3-region": "us-east-1",
                "s3-addressing-style": "path",
                "spill-deadline": "20s",
            },
        }

    def follow(self, advice: str) -> None:
        """Do what the doctor advises: a command of helm's or kubectl's, as it is printed."""
        program, *words = shlex.split(advice)
        {"helm": self.helm, "kubectl": self.kubectl}[program](*words)

    def doctor(self) -> Finding:
        """What `resultsfs doctor --cluster` finds."""
        environment = {**os.environ, "KUBECONFIG": str(self._cluster.places.kubeconfig)}
        command = [str(DOCTOR), "doctor", "--cluster", "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
        assert done.returncode in (0, 1), done.stderr
        found = Finding({line["name"]: line for line in json.loads(done.stdout)})
        found.code = done.returncode
        assert found.code == (1 if found.of("fail") else 0)
        return found


@contextmanager
def installed(places: Places, kube: Kube, home: Path, kind: type[ByReadme] = ByReadme) -> Iterator[ByReadme]:
    """Installed by README.md on a cluster without resultsfs, and taken away; then what was there before, again."""
    cluster = Cluster(places)
    before = Installation(cluster, kube) if _there(kube) else None
    if before is not None:
        before.remove()
    try:
        with serving(home, cluster.network().host) as store:
            found = kind(cluster, kube, store)
            try:
                with artefacts.kept(kube, SYSTEM):
                    found.install()
                yield found
            finally:
                found.remove()
    finally:
        if before is not None:
            before.install()


def _there(kube: Kube) -> bool:
    try:
        kube.get(NAMESPACE, SYSTEM)
    except NotFoundError:
        return False
    return True
