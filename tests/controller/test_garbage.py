"""Content that is garbage goes, and nothing else, on a real API server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from controller.garbage.leader import DURATION, TRUST, Leader
from controller.garbage.sweep import AGE, ORPHAN, SIZE, Sweeper, Verdict, completed
from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.kube.errors import ApiError
from controller.kube.resources import EVENTS, LEASES, NAMESPACES, PIPELINE_RUNS, TASK_RUNS, Resource
from resultsfs.errors import InvalidSetting
from resultsfs.reference import Reference
from resultsfs.settings import Settings
from resultsfs.store import Key, Store
from resultsfs.store_names import OWNER
from tests.controller.apiserver import ApiServer
from tests.controller.replica import running
from tests.support.stores import content, key_of, put
from tests.support.waiting import eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A store in a directory, and no grace."""
    return Settings(store=f"file://{tmp_path}/store", garbage_grace=0)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """The store."""
    store = Store.open(settings)
    yield store
    store.close()


def run(kube: Kube, namespace: str, name: str, resource: Resource = PIPELINE_RUNS, **metadata: Any) -> UUID:
    """Make a run; its UID."""
    spec = {"pipelineRef": {"name": "any"}} if resource is PIPELINE_RUNS else {"taskRef": {"name": "any"}}
    tree = {
        "apiVersion": "tekton.dev/v1",
        "kind": resource.kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }
    return UUID(kube.create(resource, namespace, tree)["metadata"]["uid"])


def complete(kube: Kube, namespace: str, name: str, ago: float = 0) -> None:
    """Let a PipelineRun complete now; a clock that is wrong says that it was so many seconds ago."""
    at = (datetime.now(UTC) - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    kube.merge(PIPELINE_RUNS.path(namespace, name, "status"), {"status": {"completionTime": at}})


def fill(store: Store, namespace: str, uid: UUID, size: int = 100) -> Reference:
    """Store some content of a run."""
    key = put(store, content(size, size), key_of(content(size, size), namespace, uid))
    return Reference.of(uid, key.sha256)


def verdicts(kube: Kube, store: Store, settings: Settings, namespace: str) -> dict[UUID, Verdict]:
    """What would become of each run's content; nothing is noted."""
    found = Sweeper(kube, store, settings).judge(namespace, note=False)
    return {verdict.uid: verdict for verdict in found}


def sweep(kube: Kube, store: Store, settings: Settings, namespace: str) -> set[UUID]:
    """Sweep one namespace; the runs whose content is left."""
    sweeper = Sweeper(kube, store, settings)
    sweeper.claim()
    sweeper.execute(list(sweeper.judge(namespace)), lambda: True)
    return {uid for _, uid in store.runs(namespace)}


def test_content_goes_when_its_run_is_gone(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """What belongs to a run stays; what belongs to none goes, also where a run of the same name was made again."""
    alive, gone = run(kube, namespace, "alive"), run(kube, namespace, "again")
    task = run(kube, namespace, "task", TASK_RUNS)
    for uid in (alive, gone, task):
        fill(store, namespace, uid)
    assert sweep(kube, store, settings, namespace) == {alive, gone, task}
    kube.delete(PIPELINE_RUNS, namespace, "again")
    again = run(kube, namespace, "again")
    fill(store, namespace, again)
    assert sweep(kube, store, settings, namespace) == {alive, again, task}


def test_garbage_stays_for_its_grace(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """It is remembered since when a run is gone; content goes after the grace and the namespace's retention."""
    gone = uuid4()
    fill(store, namespace, gone)
    patient = dataclasses.replace(settings, garbage_grace=3600)
    assert sweep(kube, store, patient, namespace) == {gone}
    found = verdicts(kube, store, patient, namespace)[gone]
    assert not found.reason and found.wait is not None and 3500 < found.wait <= 3600
    annotation = {"metadata": {"annotations": {"resultsfs.dev/retain-after-delete": "30d"}}}
    kube.patch(NAMESPACES, None, namespace, annotation)
    assert sweep(kube, store, settings, namespace) == {gone}
    kube.patch(NAMESPACES, None, namespace, {"metadata": {"annotations": None}})
    assert verdicts(kube, store, settings, namespace)[gone].reason == ORPHAN
    assert {uid for _, uid in store.runs(namespace)} == {gone}
    assert sweep(kube, store, settings, namespace) == set()


def test_what_a_living_run_needs_stays(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """TaskRuns without their PipelineRun keep its content, and so does a run that was given a reference as a path."""
    parent, other = uuid4(), uuid4()
    fill(store, namespace, parent)
    reference = fill(store, namespace, other)
    labels = {"tekton.dev/pipelineRunUID": str(parent)}
    run(kube, namespace, "left", TASK_RUNS, labels=labels)
    taken = {"resultsfs.dev/references": json.dumps([reference.name])}
    run(kube, namespace, "reads", TASK_RUNS, annotations=taken)
    run(kube, namespace, "forged", TASK_RUNS, annotations={"resultsfs.dev/references": "no list"})
    assert sweep(kube, store, settings, namespace) == {parent, other}
    kube.delete(TASK_RUNS, namespace, "reads")
    kube.delete(TASK_RUNS, namespace, "left")
    assert sweep(kube, store, settings, namespace) == set()


def test_retention_by_age_and_hold(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """A namespace's retention ends content of completed runs, not of those that run or are held, with an Event."""
    old, going = (run(kube, namespace, name) for name in ("old", "going"))
    held = run(kube, namespace, "held", annotations={"resultsfs.dev/hold": "true"})
    for uid in (old, going, held):
        fill(store, namespace, uid)
    for name in ("old", "held"):
        complete(kube, namespace, name)
    assert sweep(kube, store, settings, namespace) == {old, going, held}
    retain(kube, namespace, "1h")
    found = verdicts(kube, store, settings, namespace)[old]
    assert not found.reason and found.wait is not None and 3500 < found.wait <= 3600
    retain(kube, namespace, "1s")
    eventually(lambda: verdicts(kube, store, settings, namespace)[old].reason == AGE)
    assert sweep(kube, store, settings, namespace) == {going, held}
    events = kube.list(EVENTS, namespace).items
    assert [(event["reason"], event["regarding"]["name"]) for event in events] == [("ResultsExpired", "old")]


def retain(kube: Kube, namespace: str, age: str) -> None:
    """Set a namespace's retention."""
    kube.patch(NAMESPACES, None, namespace, {"metadata": {"annotations": {"resultsfs.dev/retention": age}}})


@pytest.mark.parametrize("ago", [7 * 86_400, -7 * 86_400], ids=["behind", "ahead"])
def test_a_clock_that_is_wrong_ends_no_retention(
    kube: Kube, namespace: str, store: Store, settings: Settings, ago: int
) -> None:
    """A run's completion counts from when the API server was told of it, whatever the clock of Tekton's node said."""
    skewed = run(kube, namespace, "skewed")
    fill(store, namespace, skewed)
    complete(kube, namespace, "skewed", ago)
    retain(kube, namespace, "1h")
    found = verdicts(kube, store, settings, namespace)[skewed]
    assert not found.reason and found.wait is not None and 3500 < found.wait <= 3600
    retain(kube, namespace, "1s")
    eventually(lambda: verdicts(kube, store, settings, namespace)[skewed].reason == AGE)


def test_completion_without_a_note_is_not_before_creation() -> None:
    """Where nobody noted when the status was written, the creation is the earliest that can be."""
    metadata = {"creationTimestamp": "2026-01-02T00:00:00Z"}
    tree = {"metadata": metadata, "status": {"completionTime": "2026-01-01T00:00:00Z"}}
    assert completed(tree) == datetime(2026, 1, 2, tzinfo=UTC)
    tree["status"]["completionTime"] = "2026-01-03T00:00:00Z"
    assert completed(tree) == datetime(2026, 1, 3, tzinfo=UTC)
    assert completed({"metadata": metadata, "status": {}}) is None


def test_retention_by_size(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """Beyond a namespace's bytes the content of what completed longest ago goes first, and only as much as must."""
    uids = {name: run(kube, namespace, name) for name in ("first", "second", "third", "running")}
    for name, ago in (("first", 300), ("second", 200), ("third", 100)):
        complete(kube, namespace, name, ago)  # within a second, in which their own clock decides
    for size, uid in enumerate(uids.values(), 1000):
        fill(store, namespace, uid, size)
    limited = dataclasses.replace(settings, retention_size=2500)
    assert verdicts(kube, store, limited, namespace)[uids["first"]].reason == SIZE
    assert sweep(kube, store, limited, namespace) == {uids["second"], uids["third"], uids["running"]}


def test_a_bad_annotation_deletes_nothing(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """A namespace whose annotation means nothing, or that is held, keeps everything."""
    gone = uuid4()
    fill(store, namespace, gone)
    for annotation in (
        {"resultsfs.dev/retention": "soon"},
        {"resultsfs.dev/retention": None, "resultsfs.dev/hold": "true"},
    ):
        kube.patch(NAMESPACES, None, namespace, {"metadata": {"annotations": annotation}})
        assert sweep(kube, store, settings, namespace) == {gone}


def test_an_api_error_is_no_absence(
    api: ApiServer, kube: Kube, namespace: str, store: Store, settings: Settings
) -> None:
    """Where any kind of run cannot be listed, the sweep ends with the error and nothing is deleted."""
    fill(store, namespace, uuid4())
    stranger = Kube(from_kubeconfig(str(api.kubeconfig("stranger", "stranger"))))
    try:
        with pytest.raises(ApiError) as caught:
            list(Sweeper(stranger, store, settings).judge(namespace))
        assert caught.value.status == 403
    finally:
        stranger.close()
    assert len(list(store.runs(namespace))) == 1


def test_a_store_of_another_cluster_is_left_alone(kube: Kube, store: Store, settings: Settings) -> None:
    """A store that another cluster has claimed is not swept, and the error says what to do."""
    store.put_note(OWNER, b"11111111-2222-3333-4444-555555555555")
    with pytest.raises(InvalidSetting, match=r"belongs to the cluster .* prefix of its own"):
        Sweeper(kube, store, settings).claim()
    store.delete_note(OWNER)
    Sweeper(kube, store, settings).claim()
    Sweeper(kube, store, settings).claim()


def test_one_leader_at_a_time(kube: Kube, namespace: str) -> None:
    """Of two candidates one leads; the other takes over when it lets go, or after it fell silent, never before."""
    now = [0.0]
    first, second = (Leader(kube, namespace, "lease", name, lambda: now[0]) for name in ("first", "second"))
    assert first.step() and first()
    assert not second.step()
    now[0] += TRUST
    assert not first()
    assert not second.step()
    now[0] += DURATION - TRUST + 0.1
    assert second.step() and second()
    assert not first.step()
    second.release()
    assert first.step() and first() and not second()
    assert kube.get(LEASES, namespace, "lease")["spec"]["leaseTransitions"] == 3


def test_a_lease_does_not_depend_on_clocks(kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder whose node's clock is days behind or ahead is left in peace for the whole duration."""
    now = [0.0]
    first, second = (Leader(kube, namespace, "lease", name, lambda: now[0]) for name in ("first", "second"))
    for days in (-3, 3):
        with monkeypatch.context() as patch:
            patch.setattr("controller.garbage.leader.datetime", _shifted(timedelta(days=days)))
            assert first.step() and first()
        written = kube.get(LEASES, namespace, "lease")["spec"]["renewTime"]
        assert abs((datetime.fromisoformat(written) - datetime.now(UTC)).days) >= 2
        assert not second.step()
        now[0] += DURATION - 1
        assert not second.step()


def _shifted(by: timedelta) -> type[datetime]:
    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Shifted:
            return cast("Shifted", datetime.now(tz) + by)

    return Shifted


def test_a_replica_collects_what_is_deleted(api: ApiServer, kube: Kube, namespace: str, tmp_path: Path) -> None:
    """With the service account's own rights a replica leads, sees a deletion, and content goes after its grace."""
    settings = {"store": f"file://{tmp_path}/store", "garbage-grace": "1s", "garbage-interval": "1h"}
    store = Store.open(Settings(store=settings["store"]))
    gone, alive = run(kube, namespace, "gone"), run(kube, namespace, "alive")
    for uid in (gone, alive):
        fill(store, namespace, uid)
    with running(api, tmp_path / "replica", settings) as replica:
        eventually(lambda: "resultsfs_leader 1.0" in replica.get("/metrics")[1])
        eventually(lambda: "resultsfs_garbage_last_sweep_timestamp_seconds 0.0" not in replica.get("/metrics")[1])
        assert f'resultsfs_store_bytes{{namespace="{namespace}"}} 200.0' in replica.get("/metrics")[1]
        kube.delete(PIPELINE_RUNS, namespace, "gone")
        eventually(lambda: {uid for _, uid in store.runs(namespace)} == {alive}, 60)
        eventually(lambda: 'resultsfs_garbage_runs_total{reason="orphan"} 1.0' in replica.get("/metrics")[1])
        assert replica.stop() == 0
    assert kube.get(LEASES, "resultsfs", "resultsfs-controller")["spec"]["holderIdentity"] == ""
    assert store.size(Key.of(namespace, fill(store, namespace, alive))) == 100
    store.close()
