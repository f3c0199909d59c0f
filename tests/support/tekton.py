"""Tekton's own programs and manifests, from its published Go module; what is built is kept outside the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.cluster.machine import golang

MODULE = Path(__file__).parent.parent / "conformance" / "tekton"
"""The Go module that pins Tekton's version: for the conformance tests and for the cluster."""
PACKAGE = "github.com/tektoncd/pipeline"
PROGRAMS = ("controller", "entrypoint", "nop", "sidecarlogresults", "webhook", "workingdirinit")


class NoGo(RuntimeError):
    """Go is not installed."""


@dataclass(frozen=True)
class Source:
    """The pinned version and its unpacked module."""

    version: str
    directory: Path


@cache
def source() -> Source:
    """Where the module cache has Tekton's module, fetched if it is not there. Raises NoGo."""
    go = shutil.which("go")
    if go is None:
        raise NoGo("Go is not installed: Tekton's module cannot be had")
    command = [go, "mod", "download", "-json", PACKAGE]
    found = json.loads(subprocess.run(command, cwd=MODULE, check=True, capture_output=True, timeout=1200).stdout)
    return Source(found["Version"], Path(found["Dir"]))


def program(name: str) -> Path:
    """One of Tekton's programs, built if there is none yet. Raises NoGo, and ClusterError with what Go printed."""
    found = golang.Program(name, MODULE, f"{PACKAGE}/cmd/{name}", source().version)
    golang.build([found])
    return found.path
