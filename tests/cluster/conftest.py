"""The cluster, once a session; a namespace for each test, and what to look at when it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster import artefacts
from tests.cluster.artefacts import ARTEFACTS
from tests.cluster.installation import LABEL, Installation, installed
from tests.cluster.kube import Kube
from tests.cluster.machine import lifecycle
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import CHECKOUT, Places, places
from tests.cluster.room import Room

_COLLECTED = pytest.StashKey[bool]()
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
def room(request: pytest.FixtureRequest, kube: Kube) -> Iterator[Room]:
    """A namespace for this test alone, gone after it. If the test fails, see `docs/development.md`."""
    yield from _room(request, kube, {})


@pytest.fixture(scope="session")
def resultsfs(cluster: Places, kube: Kube) -> Iterator[Installation]:
    """Installed by its chart, and taken away in the end."""
    with installed(Cluster(cluster), kube) as found:
        yield found


@pytest.fixture
def ours(request: pytest.FixtureRequest, kube: Kube, resultsfs: Installation) -> Iterator[Room]:
    """As `room`, and its TaskRuns have their results on resultsfs."""
    yield from _room(request, kube, {LABEL: "true"})


@pytest.fixture(scope="module")
def hall(request: pytest.FixtureRequest, kube: Kube, resultsfs: Installation) -> Iterator[Room]:
    """As `ours`, for all tests of a module, whose runs then share the machine instead of waiting for each other."""
    yield from _room(request, kube, {LABEL: "true"})


def _room(request: pytest.FixtureRequest, kube: Kube, labels: dict[str, str]) -> Iterator[Room]:
    title = Path(request.node.name).stem
    name = re.sub(r"[^a-z0-9]+", "-", title.lower().removeprefix("test_"))[:50].strip("-")
    with Room(kube, f"t-{name}", labels) as found:
        yield found


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say where the test's artefacts are to be."""
    artefacts.begin(ARTEFACTS / item.path.stem / item.name.replace("/", "-"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """When a test fails, write what there is to look at before its fixtures take it away."""
    report = yield
    places = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(places, Places) and not item.stash.get(_COLLECTED, False):
        item.stash[_COLLECTED] = True
        report.sections.append(("what is left to look at", str(artefacts.of_the_cluster(places))))
    return report
