"""A real API server that the chart and the manifests are put on, as kubectl and helm see it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.machine import golang
from tests.cluster.machine.errors import ClusterError
from tests.controller.apiserver import programs, serving
from tests.support import tekton
from tests.support.chart import ROOT

TEKTON = "system:serviceaccount:tekton-pipelines:tekton-pipelines-controller"

Tree = dict[str, Any]


class Refused(Exception):
    """The API server did not do it; the message is its own."""


class Cluster:
    """An API server, as kubectl and helm see it."""

    def __init__(self, kubeconfig: Path) -> None:
        kubectl = next(program for program in golang.kubernetes() if program.name == "kubectl")
        golang.build([kubectl])
        self._kubectl = str(kubectl.path)
        path = f"{kubectl.path.parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": path}

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints. Raises Refused."""
        return self._run([self._kubectl, *arguments], stdin)

    def helm(self, *arguments: str) -> str:
        """What helm prints. Raises Refused."""
        return self._run([str(ROOT / "scripts" / "helm"), *arguments], None)

    def shell(self, words: str) -> str:
        """What a document's commands print, in a checkout, as the shell reads them. Raises Refused."""
        return self._run(["bash", "-e", "-o", "pipefail", "-c", words], None)

    def create(self, tree: Tree, user: str = "") -> None:
        """Make an object, as another user where one is named. Raises Refused."""
        as_user = [f"--as={user}"] if user else []
        self.kubectl("create", "--filename=-", *as_user, stdin=json.dumps(tree))

    def get(self, *what: str) -> Tree:
        """An object as JSON. Raises Refused."""
        found: Tree = json.loads(self.kubectl("get", *what, "--output=json"))
        return found

    def _run(self, command: list[str], stdin: str | None) -> str:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=300, env=self.environment, cwd=ROOT
        )
        if done.returncode != 0:
            raise Refused(done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server with Tekton's CRDs, whose controller may make pods."""
    try:
        programs()
        crds = sorted((tekton.source().directory / "config" / "300-crds").glob("*.yaml"))
    except ClusterError as error:
        pytest.skip(str(error))
    with serving(tmp_path_factory.mktemp("api")) as server:
        found = Cluster(server.admin)
        for file in crds:
            for tree in yaml.safe_load_all(file.read_text()):
                tree["spec"].pop("conversion", None)  # by Tekton's webhook, which is not here
                found.create(tree)
        found.kubectl("create", "namespace", "tekton-pipelines")
        found.kubectl("create", "clusterrolebinding", "tekton", "--clusterrole=cluster-admin", f"--user={TEKTON}")
        found.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield found
