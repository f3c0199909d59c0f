"""An API server for the session, a replica for each module that wants one, and a namespace for each test."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.kube.resources import MUTATING_WEBHOOKS, NAMESPACES
from resultsfs.settings import from_mapping
from resultsfs.store import Store
from tests.cluster.machine.errors import ClusterError
from tests.controller import tekton
from tests.controller.apiserver import ApiServer, programs, serving
from tests.controller.replica import RESOURCES, Replica, delete_quietly, install, running
from tests.controller.tekton import Runs

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The API server, with Tekton's CRDs and the chart's service account."""
    try:
        programs()
    except ClusterError as error:
        pytest.skip(str(error))
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: Tekton's CRDs cannot be had")
    with serving(tmp_path_factory.mktemp("api")) as server:
        kube = Kube(from_kubeconfig(str(server.admin)))
        try:
            install(kube)
        finally:
            kube.close()
        yield server


@pytest.fixture
def kube(api: ApiServer) -> Iterator[Kube]:
    """The API as the administrator."""
    found = Kube(from_kubeconfig(str(api.admin)), timeout=60)
    yield found
    found.close()


@pytest.fixture
def namespace(kube: Kube) -> str:
    """A namespace of its own."""
    name = f"team-{os.getpid()}-{next(_numbers)}"
    kube.create(NAMESPACES, None, {"metadata": {"name": name}})
    kube.create(RESOURCES["ServiceAccount"], name, {"metadata": {"name": "default"}})  # there is nobody else to do it
    return name


@pytest.fixture(scope="session")
def tekton_controller(api: ApiServer) -> Iterator[None]:
    """Tekton's own controller."""
    kube = Kube(from_kubeconfig(str(api.admin)))
    try:
        with tekton.running(api, kube):
            yield
    finally:
        kube.close()


@pytest.fixture
def runs(tekton_controller: None, kube: Kube, namespace: str) -> Runs:
    """Runs that Tekton's controller works on, in a namespace of their own."""
    return Runs(kube, namespace)


@dataclass(frozen=True)
class Serving:
    """A replica that the API server asks, and the store that it reads."""

    replica: Replica
    store: Store
    api: ApiServer
    home: Path


@pytest.fixture(scope="module")
def serving_replica(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One replica with a store in a directory."""
    home = tmp_path_factory.mktemp("replica")
    settings = {"store": f"file://{home}/store"}
    kube = Kube(from_kubeconfig(str(api.admin)))
    store = Store.open(from_mapping(settings))
    try:
        with running(api, home, settings, webhooks="resultsfs") as replica:
            yield Serving(replica, store, api, home)
    finally:
        delete_quietly(kube, MUTATING_WEBHOOKS, "resultsfs")
        store.close()
        kube.close()
