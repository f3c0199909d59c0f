"""The chart, rendered by Helm as deploy/helm/go.mod pins it, and parsed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "chart"
MANIFESTS = ROOT / "deploy" / "manifests" / "resultsfs.yaml"
SETTINGS = MANIFESTS.with_name("settings.yaml")
NAMESPACE = "results"

Tree = dict[str, Any]


class Refused(Exception):
    """Helm did not render; the message is what it printed."""


class Objects:
    """Objects of a rendering, by kind and name."""

    def __init__(self, text: str) -> None:
        self.all: list[Tree] = [tree for tree in yaml.safe_load_all(text) if tree]

    def one(self, kind: str, name: str, namespace: str | None = None) -> Tree:
        """The object of that name; there must be exactly one."""
        found = [
            tree
            for tree in self.all
            if tree["kind"] == kind
            and tree["metadata"]["name"] == name
            and namespace in (None, tree["metadata"].get("namespace"))
        ]
        assert len(found) == 1, f"{len(found)} of {kind} {name}"
        return found[0]

    def kinds(self) -> set[str]:
        """All kinds that there are."""
        return {tree["kind"] for tree in self.all}

    def pods(self) -> dict[str, Tree]:
        """Specs of the pods that workloads make, by the workload's name."""
        workloads = [tree for tree in self.all if tree["kind"] in ("DaemonSet", "Deployment")]
        return {tree["metadata"]["name"]: tree["spec"]["template"]["spec"] for tree in workloads}

    def container(self, pod: str, name: str) -> Tree:
        """A container of a workload's pods."""
        return next(tree for tree in self.pods()[pod]["containers"] if tree["name"] == name)


def committed() -> Objects:
    """The manifests as they are in the repository: what is applied once, and what is applied again and again."""
    return Objects("---\n".join(file.read_text(encoding="utf-8") for file in (SETTINGS, MANIFESTS)))


class Helm:
    """Helm itself."""

    def run(self, *arguments: str) -> str:
        """What a command prints. Raises Refused."""
        command = [str(ROOT / "scripts" / "helm"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=ROOT)
        if done.returncode != 0:
            raise Refused(done.stdout + done.stderr)
        return done.stdout

    def render(self, values: Tree, *arguments: str) -> Objects:
        """The chart with values on top of its defaults. Raises Refused."""
        text = yaml.safe_dump(values)
        command = [str(ROOT / "scripts" / "helm"), "template", "resultsfs", str(CHART), "--namespace", NAMESPACE]
        command += ["--kube-version", "1.34.0", "--values", "-", *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=1800)
        if done.returncode != 0:
            raise Refused(done.stdout + done.stderr)
        return Objects(done.stdout)


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm; it is built when it is first asked for anything."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: Helm cannot be built from its module")
    return Helm()
