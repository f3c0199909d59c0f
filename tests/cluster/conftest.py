"""The cluster, once a session; a namespace for each test, and what to look at when it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from kubernetes.dynamic.exceptions import ApiException

from tests.cluster import installation, tekton
from tests.cluster.installation import LABEL, Installation, installed
from tests.cluster.kube import POD, Kube
from tests.cluster.machine import lifecycle
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import CHECKOUT, Places, places
from tests.cluster.room import Room

ARTEFACTS = CHECKOUT / "tests-artifacts" / "cluster"
"""What failed tests leave: a folder each."""
_FAILED = pytest.StashKey[bool]()
_TAIL = 1 << 20
"""Bytes of each component's log that are kept."""
_INSTANCE = os.environ.get("RESULTSFS_CLUSTER", "")
"""As `--instance` of `python -m tests.cluster`: a further cluster of this checkout."""


def _command(verb: str) -> int:
    command = [sys.executable, "-m", "tests.cluster", "--instance", _INSTANCE, verb]
    return subprocess.run(command, cwd=CHECKOUT, check=False).returncode


@pytest.fixture(scope="session")
def cluster() -> Iterator[Places]:
    """The checkout's cluster. Started if it is not up, and then stopped again where `CI` is set; else it stays up."""
    if lacking := lifecycle.missing():
        pytest.skip("; ".join(lacking))
    found = places(_INSTANCE)
    was_up = found.kubeconfig.exists()
    assert _command("up") == 0, "the cluster did not start; what it said is above, its logs are named there"
    yield found
    if os.environ.get("CI") and not was_up:
        assert _command("down") == 0


@pytest.fixture(scope="session")
def kube(cluster: Places) -> Iterator[Kube]:
    """The API, as the administrator."""
    with Kube(cluster.kubeconfig) as found:
        yield found


@pytest.fixture
def room(request: pytest.FixtureRequest, cluster: Places, kube: Kube) -> Iterator[Room]:
    """A namespace for this test alone, gone after it. If the test fails, see `tests-artifacts/cluster/<test>`."""
    yield from _room(request, cluster, kube, {})


@pytest.fixture(scope="session")
def resultsfs(cluster: Places, kube: Kube) -> Iterator[Installation]:
    """Installed by its chart, and taken away in the end."""
    with installed(Cluster(cluster), kube) as found:
        yield found


@pytest.fixture
def ours(request: pytest.FixtureRequest, cluster: Places, kube: Kube, resultsfs: Installation) -> Iterator[Room]:
    """As `room`, and its TaskRuns have their results on resultsfs."""
    yield from _room(request, cluster, kube, {LABEL: "true"})


@pytest.fixture(scope="module")
def hall(request: pytest.FixtureRequest, cluster: Places, kube: Kube, resultsfs: Installation) -> Iterator[Room]:
    """As `ours`, for all tests of a module, whose runs then share the machine instead of waiting for each other."""
    yield from _room(request, cluster, kube, {LABEL: "true"})


def _room(request: pytest.FixtureRequest, cluster: Places, kube: Kube, labels: dict[str, str]) -> Iterator[Room]:
    title = Path(request.node.name).stem
    name = re.sub(r"[^a-z0-9]+", "-", title.lower().removeprefix("test_"))[:50].strip("-")
    with Room(kube, f"t-{name}", labels) as found:
        yield found
        if request.node.stash.get(_FAILED, False):
            folder = ARTEFACTS / title
            _collect(folder, found, cluster)
            print(f"what is left to look at: {folder}")


def _collect(folder: Path, room: Room, cluster: Places) -> None:
    room.collect(folder)
    for system in (tekton.SYSTEM, installation.SYSTEM):
        for pod in room.kube.list(POD, system):
            for container in pod["spec"]["containers"]:
                name = f"{pod['metadata']['name']}.{container['name']}"
                try:
                    text = room.kube.logs(pod["metadata"]["name"], system, container["name"])
                except ApiException as error:
                    text = f"no log: {error.body!r}\n"
                (folder / f"{system}.{name}.log").write_text(text)
    for log in cluster.logs.iterdir():
        if log.is_file():
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - _TAIL))
                (folder / f"node.{log.name}").write_bytes(file.read())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember for the fixtures that a test failed."""
    report = yield
    if call.when in ("setup", "call") and call.excinfo is not None:
        for node in item.listchain():
            node.stash[_FAILED] = True
    return report
