"""Go programs of published modules: built once for a version and kept outside the checkout."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.machine.errors import ClusterError, NoGo
from tests.cluster.machine.locking import locked
from tests.cluster.machine.places import cache_directory
from tests.cluster.machine.progress import say

MODULES = Path(__file__).resolve().parents[1] / "go"
_SAY_EVERY = 20.0
"""Seconds between signs of life of a build."""
_NICE = 10


@dataclass(frozen=True)
class Program:
    """A Go program to be built in one of our modules."""

    name: str
    module: Path
    """The directory with our go.mod, which pins everything."""
    package: str
    version: str
    """As the program reports it; for the name in the cache."""
    ldflags: str = "-s -w"

    @property
    def path(self) -> Path:
        """Where it is when it has been built; whoever changes the module or the flags gets another path."""
        key = hashlib.sha256(f"{self.package}\n{self.ldflags}\n".encode())
        for file in sorted(self.module.rglob("*")):
            if file.suffix in (".go", ".mod", ".sum"):
                key.update(f"{file.relative_to(self.module)}\n".encode() + file.read_bytes())
        return cache_directory() / "go" / f"{self.name}-{self.version}-{key.hexdigest()[:12]}" / self.name


def kubernetes() -> list[Program]:
    """Kubernetes' own programs, in the order in which they are needed."""
    module = MODULES / "kubernetes"
    version = required(module, "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamped = [
        f"-X {package}.{key}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for key, value in values.items()
    ]
    flags = " ".join(["-s -w", *stamped])
    names = ("kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    return [Program(name, module, f"k8s.io/kubernetes/cmd/{name}", version, flags) for name in names]


def own() -> list[Program]:
    """The programs whose main package is ours: the cluster's DNS and the container that holds a pod's namespaces."""
    dns = MODULES / "coredns"
    return [
        Program("coredns", dns, ".", required(dns, "github.com/coredns/coredns")),
        Program("pause", MODULES / "pause", ".", "v1"),
    ]


def sidecars() -> list[Program]:
    """The sidecars of a CSI driver: what tells the kubelet of it, and what asks for its health."""
    module = MODULES / "sidecars"
    version = required(module, "k8s.io/kubelet")
    return [Program(name, module, f"./{name}", version) for name in ("registrar", "livenessprobe")]


def required(module: Path, dependency: str) -> str:
    """The version of a dependency that a module's go.mod pins. Raises ClusterError."""
    found = re.search(rf"^\s*(?:require )?{re.escape(dependency)} (v\S+)", (module / "go.mod").read_text(), re.M)
    if found is None:
        raise ClusterError(f"{module / 'go.mod'} does not require {dependency}")
    return found[1]


def missing(programs: Sequence[Program]) -> list[Program]:
    """Those that have not been built yet."""
    return [program for program in programs if not program.path.exists()]


def build(programs: Sequence[Program]) -> None:
    """Build what is missing, one after the other. Raises NoGo, and ClusterError with what Go printed."""
    for program in missing(programs):
        lock = program.path.parent.with_name(f"{program.path.parent.name}.lock")
        with locked(lock, lambda: say("another process builds the same program: waiting for it")):
            if not program.path.exists():
                _build(program)


def _build(program: Program) -> None:
    if shutil.which("go") is None:
        raise NoGo(f"{program.name} {program.version} cannot be built, and {program.path} is not there")
    root = program.path.parent.parent
    for left in root.glob(f".{program.path.parent.name}-*"):  # by a build that was interrupted: the lock is ours
        shutil.rmtree(left)
    began = time.monotonic()
    say(f"building {program.name} {program.version}")
    with tempfile.TemporaryDirectory(prefix=f".{program.path.parent.name}-", dir=root) as directory:
        made = Path(directory) / "made"
        made.mkdir()
        command = [
            "nice", "-n", str(_NICE), "go", "build", "-v", "-trimpath", "-buildvcs=false",
            "-ldflags", program.ldflags, "-o", str(made / program.name), program.package,
        ]  # fmt: skip
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
        log = Path(directory) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=program.module, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                _await(process, program, log, began)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        if process.returncode != 0:
            text = [line for line in log.read_text().splitlines() if not re.fullmatch(r"[\w./-]+", line)]
            raise ClusterError(f"{program.name} could not be built in {program.module}:\n" + "\n".join(text[-40:]))
        shutil.rmtree(program.path.parent, ignore_errors=True)
        made.rename(program.path.parent)
    say(f"built {program.name} {program.version} ({time.monotonic() - began:.0f} s)")


def _await(process: subprocess.Popen[bytes], program: Program, log: Path, began: float) -> None:
    while True:
        try:
            process.wait(_SAY_EVERY)
            return
        except subprocess.TimeoutExpired:
            lines = log.read_text().splitlines()
            compiled = sum(not line.startswith("go: ") for line in lines)
            say(f"  {program.name}: {time.monotonic() - began:.0f} s, {compiled} packages compiled, more to come")
