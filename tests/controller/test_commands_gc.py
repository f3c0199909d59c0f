"""`resultsfs gc` deletes by the cluster's own settings and in the cluster's own store, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from controller.kube.client import Kube
from controller.kube.resources import CONFIG_MAPS
from resultsfs.settings import Settings
from resultsfs.store import Store
from resultsfs.store_names import OWNER
from tests.controller.apiserver import ApiServer
from tests.controller.test_garbage import fill

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in a directory."""
    store = Store.open(Settings(store=f"file://{tmp_path}/store"))
    yield store
    store.close()


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(api: ApiServer, tmp_path: Path) -> Run:
    """The command with the administrator's kubeconfig."""
    environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": str(api.admin)}

    def command(*words: str) -> subprocess.CompletedProcess[bytes]:
        program = Path(sys.executable).parent / "resultsfs"
        return subprocess.run([program, *words], capture_output=True, env=environment, timeout=100, check=False)

    return command


@contextmanager
def installed(kube: Kube, **settings: str) -> Iterator[None]:
    """The cluster's ConfigMap."""
    data = {key.replace("_", "-"): value for key, value in settings.items()}
    kube.create(CONFIG_MAPS, "resultsfs", {"metadata": {"name": "resultsfs"}, "data": data})
    try:
        yield
    finally:
        kube.delete(CONFIG_MAPS, "resultsfs", "resultsfs")


def left(store: Store, namespace: str) -> set[UUID]:
    """Runs that have content."""
    return {uid for _, uid in store.runs(namespace)}


def test_it_deletes_by_the_clusters_settings(kube: Kube, namespace: str, store: Store, run: Run) -> None:
    """What the ConfigMap keeps stays, also where --store names the store; a dry run needs neither option."""
    gone = uuid4()
    fill(store, namespace, gone)
    with installed(kube, store=store.url, garbage_grace="0", retain_after_delete="30d"):
        for words in (["--store", store.url], []):
            done = run("gc", "-n", namespace, *words)
            assert done.returncode == 0 and b"deleted: 0" in done.stdout, done.stderr
            assert left(store, namespace) == {gone}
        dry = run("gc", "--dry-run", "-n", namespace, "--output", "json")
        assert dry.returncode == 0, dry.stderr
        (row,) = json.loads(dry.stdout)["runs"]
        assert (row["run"], row["goes"]) == (str(gone), False)
    with installed(kube, store="file:///nowhere", garbage_grace="0"):
        done = run("gc", "-n", namespace, "--store", store.url)
        assert done.returncode == 0 and b"deleted: 1" in done.stdout, done.stderr
    assert left(store, namespace) == set()


def test_without_the_clusters_settings_nothing_is_deleted(kube: Kube, namespace: str, store: Store, run: Run) -> None:
    """A store alone does not say what may go: refused with the way out. A dry run says by which settings it judged."""
    fill(store, namespace, uuid4())
    for words in (["--store", store.url], [], ["--dry-run"]):
        refused = run("gc", "-n", namespace, *words)
        assert (refused.returncode, b"--settings FILE" in refused.stderr, refused.stdout) == (2, True, b"")
    dry = run("gc", "-n", namespace, "--store", store.url, "--dry-run")
    assert dry.returncode == 0 and b"by default settings" in dry.stderr, dry.stderr
    assert len(left(store, namespace)) == 1


def test_a_dry_run_knows_another_clusters_store(
    kube: Kube, namespace: str, store: Store, run: Run, tmp_path: Path
) -> None:
    """With the wrong context a dry run is refused too, and one that is nobody's yet is not claimed by it."""
    fill(store, namespace, uuid4())
    file = tmp_path / "settings.yaml"
    file.write_text(f"store: {store.url}\n")
    words = ["gc", "--dry-run", "-n", namespace, "--settings", str(file)]
    assert run(*words).returncode == 0
    assert store.note(OWNER) is None
    store.put_note(OWNER, b"11111111-2222-3333-4444-555555555555")
    refused = run(*words)
    assert refused.returncode == 2 and b"belongs to the cluster" in refused.stderr
    assert refused.stdout == b""
