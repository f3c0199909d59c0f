"""What a failed test leaves to look at: objects, Events and logs of its namespaces, of the systems, of the node."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from kubernetes.dynamic.exceptions import ApiException

from tests.cluster.kube import EVENT, NAMESPACE, PIPELINERUN, POD, TASKRUN, Kube, Manifest
from tests.cluster.machine.places import CHECKOUT, Places

ARTEFACTS = CHECKOUT / "tests-artifacts" / "cluster"
ROOM = "resultsfs.test/room"
"""Label of the namespaces that tests make."""
_SYSTEMS = ("tekton-pipelines", "resultsfs")
_TAIL = 1 << 20
"""Bytes of each component's log that are kept."""
_here: Path | None = None


def begin(folder: Path | None) -> None:
    """Say where the test that begins leaves what is to be looked at; None: nowhere."""
    global _here
    _here = folder


def of_the_cluster(places: Places) -> Path | None:
    """Write what there is of the node, of the systems and of all namespaces that tests made; the folder."""
    if _here is None:
        return None
    folder = _here
    _guarded(folder, lambda: node(places, folder / "node"))
    _guarded(folder, lambda: _namespaces(places, folder))
    return folder


def of_a_namespace(kube: Kube, name: str) -> None:
    """Write what there is of a namespace that is gone when the test's end is told."""
    if _here is not None:
        folder = _here
        _guarded(folder, lambda: namespace(kube, name, folder / name))


@contextmanager
def kept(kube: Kube, name: str) -> Iterator[None]:
    """If what is done inside fails, write what there is of such a namespace."""
    try:
        yield
    except BaseException:
        of_a_namespace(kube, name)
        raise


def _guarded(folder: Path, collect: Callable[[], None]) -> None:
    """A cluster that is broken must not hide what the test said; nor may the test's timeout end the session here."""
    try:
        collect()
    except BaseException as error:  # what a timeout raises is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "not-collected.txt").open("a") as file:
            traceback.print_exc(file=file)


def _namespaces(places: Places, folder: Path) -> None:
    with Kube(places.kubeconfig) as kube:
        for found in kube.list(NAMESPACE):
            name = found["metadata"]["name"]
            if name in _SYSTEMS or ROOM in found["metadata"]["labels"]:
                namespace(kube, name, folder / name)


def node(places: Places, folder: Path) -> None:
    """Write the ends of the components' logs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for log in places.logs.glob("*.log"):
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            (folder / log.name).write_bytes(file.read())


def namespace(kube: Kube, name: str, folder: Path) -> None:
    """Write runs, pods, Events and the logs of all containers of a namespace into a folder, before a restart too."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in (PIPELINERUN, TASKRUN, POD, EVENT):
        found = kube.list(kind, name)
        (folder / f"{kind.kind.lower()}s.yaml").write_text(yaml.safe_dump_all(found))
        if kind == POD:
            for pod in found:
                _logs(kube, pod, folder)


def _logs(kube: Kube, pod: Manifest, folder: Path) -> None:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    states = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    restarted = {state["name"] for state in states if state["restartCount"]}
    for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        which = container["name"]
        for previous in (False, True) if which in restarted else (False,):
            try:
                text = kube.logs(name, pod["metadata"]["namespace"], which, previous=previous)
            except ApiException as error:
                text = f"no log: {error.body!r}\n"
            (folder / f"{name}.{which}{'.previous' if previous else ''}.log").write_text(text)
