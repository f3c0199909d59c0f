"""What the store refuses of one run keeps nobody else's garbage, on a real API server and S3 behind a faulty proxy."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from controller.garbage.collector import Collector
from controller.garbage.leader import Leader
from controller.garbage.sweep import ORPHAN, Sweeper
from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.metrics import Metrics
from resultsfs.errors import StoreUnavailable
from resultsfs.settings import Settings, to_mapping
from resultsfs.store import Store
from resultsfs.store_names import gone_path
from tests.controller.apiserver import ApiServer
from tests.controller.test_commands_gc import installed
from tests.controller.test_garbage import fill, run
from tests.support.faultproxy import Fault, FaultProxy, Kind
from tests.support.waiting import eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.s3, pytest.mark.slow]


@pytest.fixture
def settings(fault_proxy: FaultProxy) -> Settings:
    """A store behind the proxy, and no grace."""
    return fault_proxy.settings(garbage_grace=0)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """The store."""
    store = Store.open(settings)
    yield store
    store.close()


def refusing(method: str, match: str, times: int = 1 << 30) -> Fault:
    """The store forbids it, for good."""
    return Fault(Kind.ANSWER, method, match, times=times, status=403, code="AccessDenied")


def test_what_cannot_be_deleted_keeps_nothing_else(
    kube: Kube, namespace: str, store: Store, settings: Settings, fault_proxy: FaultProxy
) -> None:
    """One run's deletion is refused: it is named with the store's words, all others go, and it goes when it can."""
    for _ in range(4):
        fill(store, namespace, uuid4())
    sweeper, metrics = Sweeper(kube, store, settings), Metrics()
    found = list(sweeper.judge(namespace))
    assert [verdict.reason for verdict in found] == [ORPHAN] * 4
    fault_proxy.fault = refusing("POST", "delete", times=1)
    outcome = sweeper.execute(found, lambda: True, metrics)
    (failed,) = outcome.failed
    assert failed.uid == found[0].uid and "AccessDenied" in failed.error
    assert [verdict.uid for verdict in outcome.deleted] == [verdict.uid for verdict in found[1:]]
    assert metrics.registry.get_sample_value("resultsfs_garbage_runs_total", {"reason": ORPHAN}) == 3
    assert {uid for _, uid in store.runs(namespace)} == {failed.uid}
    fault_proxy.fault = None
    assert [verdict.uid for verdict in sweeper.execute([failed], lambda: True).failed] == [failed.uid]
    assert not sweeper.execute(list(sweeper.judge(namespace)), lambda: True).failed
    assert not list(store.runs(namespace))


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_what_cannot_be_judged_keeps_nothing_else(
    kube: Kube, namespace: str, store: Store, settings: Settings, fault_proxy: FaultProxy, method: str
) -> None:
    """A run whose part of the store cannot be noted on, or read, is not deleted; the others are."""
    stuck, gone = uuid4(), uuid4()
    for uid in (stuck, gone):
        fill(store, namespace, uid)
    fault_proxy.fault = refusing(method, str(stuck))
    sweeper = Sweeper(kube, store, settings)
    outcome = sweeper.execute(list(sweeper.judge(namespace)), lambda: True)
    (failed,) = outcome.failed
    assert (failed.uid, failed.reason) == (stuck, "") and "AccessDenied" in failed.error
    assert [verdict.uid for verdict in outcome.deleted] == [gone]
    fault_proxy.fault = None
    assert {uid for _, uid in store.runs(namespace)} == {stuck}


def test_what_cannot_be_weighed_keeps_nothing_else(
    kube: Kube, namespace: str, store: Store, settings: Settings, fault_proxy: FaultProxy
) -> None:
    """A living run whose content cannot be listed is told of, and garbage goes."""
    alive, gone = run(kube, namespace, "alive"), uuid4()
    for uid in (alive, gone):
        fill(store, namespace, uid)
    fault_proxy.fault = refusing("GET", str(alive))
    sweeper = Sweeper(kube, store, settings)
    outcome = sweeper.execute(list(sweeper.judge(namespace, weigh=True)), lambda: True)
    assert [(verdict.uid, verdict.size) for verdict in outcome.failed] == [(alive, None)]
    assert [verdict.uid for verdict in outcome.deleted] == [gone]


def test_a_store_that_is_away_ends_the_sweep(
    kube: Kube, namespace: str, store: Store, settings: Settings, fault_proxy: FaultProxy
) -> None:
    """Not every run is tried where the store itself does not answer."""
    for _ in range(20):
        fill(store, namespace, uuid4())
    sweeper = Sweeper(kube, store, settings)
    found = list(sweeper.judge(namespace))
    fault_proxy.fault = Fault(Kind.ANSWER)
    with pytest.raises(StoreUnavailable):
        sweeper.execute(found, lambda: True)
    assert fault_proxy.hits < 20
    fault_proxy.fault = None
    assert len(list(store.runs(namespace))) == 20


def test_a_sweep_that_left_something_is_not_whole(
    api: ApiServer, kube: Kube, namespace: str, store: Store, settings: Settings, fault_proxy: FaultProxy
) -> None:
    """Metrics say so until everything went; unfinished uploads are removed all the same."""
    stuck, gone = uuid4(), uuid4()
    settings = dataclasses.replace(settings, garbage_interval=1)
    for uid in (stuck, gone):
        fill(store, namespace, uid)
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    fault_proxy.fault = refusing("PUT", gone_path(namespace, stuck))
    mine = Kube(from_kubeconfig(str(api.admin)))
    collector = Collector(mine, lambda: store, lambda: settings, metrics, Leader(mine, namespace, "lease", "one"))
    collector.start()
    try:
        eventually(lambda: (value("resultsfs_garbage_refused_total") or 0) >= 2)
        eventually(lambda: (value("resultsfs_garbage_failures_total") or 0) >= 2)
        assert {uid for _, uid in store.runs(namespace)} == {stuck}
        assert value("resultsfs_garbage_last_sweep_timestamp_seconds") == 0
        assert any("uploads" in request.path for request in fault_proxy.seen)
        fault_proxy.fault = None
        eventually(lambda: not list(store.runs(namespace)))
        eventually(lambda: value("resultsfs_garbage_last_sweep_timestamp_seconds") != 0)
    finally:
        collector.stop()
        mine.close()


def test_the_command_names_what_is_left(
    api: ApiServer,
    kube: Kube,
    namespace: str,
    store: Store,
    settings: Settings,
    fault_proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`resultsfs gc` deletes the rest, names each run that is left with its reason, in JSON too, and exits with 1."""
    stuck, gone = uuid4(), uuid4()
    for uid in (stuck, gone):
        fill(store, namespace, uid)
    monkeypatch.setenv("KUBECONFIG", str(api.admin))
    monkeypatch.setenv("HOME", str(tmp_path))
    fault_proxy.fault = refusing("GET", str(stuck))
    program = str(Path(sys.executable).parent / "resultsfs")
    with installed(kube, **to_mapping(settings)):
        command = [program, "gc", "-n", namespace, "--output", "json"]
        dry = subprocess.run([*command, "--dry-run"], capture_output=True, timeout=100, check=False)
        done = subprocess.run(command, capture_output=True, timeout=100, check=False)
    for process in (dry, done):
        assert process.returncode == 1, process.stderr
        assert f"{namespace}/{stuck} is left: ".encode() in process.stderr and b"AccessDenied" in process.stderr
        assert b"the store refused 1 of 2 runs' content" in process.stderr
        rows = {UUID(row["run"]): row for row in json.loads(process.stdout)["runs"]}
        assert "AccessDenied" in rows[stuck]["error"] and not rows[stuck]["goes"]
        assert (rows[gone]["error"], rows[gone]["goes"]) == ("", True)
    fault_proxy.fault = None
    assert {uid for _, uid in store.runs(namespace)} == {stuck}
