"""Tekton's own programs and manifests, from its published Go module; what is built is kept outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.cluster.machine import golang
from tests.cluster.machine.errors import NoGo as NoGo
from tests.cluster.machine.places import cache_directory
from tests.cluster.machine.running import run

MODULE = Path(__file__).parent.parent / "conformance" / "tekton"
"""The Go module that pins Tekton's version: for the conformance tests and for the cluster."""
PACKAGE = "github.com/tektoncd/pipeline"
PROGRAMS = ("controller", "entrypoint", "nop", "sidecarlogresults", "webhook", "workingdirinit")


@dataclass(frozen=True)
class Source:
    """The pinned version and its unpacked module."""

    version: str
    directory: Path


@cache
def source() -> Source:
    """Where Go's module cache has Tekton's module, fetched if it is not there. Raises NoGo, and ClusterError."""
    if not fetched():
        go = shutil.which("go")
        if go is None:
            raise NoGo("Tekton's module cannot be fetched")
        found = json.loads(run([go, "mod", "download", "-json", PACKAGE], directory=MODULE, deadline=1200))
        link = _link()
        link.parent.mkdir(parents=True, exist_ok=True)
        made = link.with_name(f".{link.name}-{os.getpid()}")
        made.unlink(missing_ok=True)
        made.symlink_to(found["Dir"])
        made.rename(link)
    return Source(golang.required(MODULE, PACKAGE), _link().resolve())


def fetched() -> bool:
    """Whether the module is there, so that Go is not needed to find it."""
    return (_link() / "go.mod").exists()


def _link() -> Path:
    return cache_directory() / "go" / f"tekton-module-{golang.required(MODULE, PACKAGE)}"


def programs() -> list[golang.Program]:
    """Tekton's programs, in the order of PROGRAMS."""
    version = golang.required(MODULE, PACKAGE)
    return [golang.Program(name, MODULE, f"{PACKAGE}/cmd/{name}", version) for name in PROGRAMS]


def program(name: str) -> Path:
    """One of Tekton's programs, built if there is none yet. Raises NoGo, and ClusterError with what Go printed."""
    found = programs()[PROGRAMS.index(name)]
    golang.build([found])
    return found.path
