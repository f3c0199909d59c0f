"""Who holds content against retention, and until when, on a real API server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from controller.garbage.sweep import AGE, ORPHAN, SIZE, Sweeper
from controller.kube.client import Kube
from controller.kube.resources import NAMESPACES, PIPELINE_RUNS, TASK_RUNS, Resource
from resultsfs.settings import Settings
from resultsfs.store import Store
from tests.controller.test_garbage import complete, fill, retain, run, sweep, verdicts
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


def annotate(kube: Kube, resource: Resource, namespace: str | None, name: str, **annotations: str | None) -> None:
    """Set annotations of ours on an object, or take them off."""
    found = {f"resultsfs.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    kube.patch(resource, namespace, name, {"metadata": {"annotations": found}})


def of(uid: UUID, name: str) -> dict[str, Any]:
    """Metadata of what a PipelineRun made."""
    owner = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": name, "uid": str(uid), "controller": True}
    return {"labels": {"tekton.dev/pipelineRunUID": str(uid)}, "ownerReferences": [owner]}


def done(kube: Kube, namespace: str, name: str) -> None:
    """Let a TaskRun complete now."""
    status = {"podName": "", "completionTime": "2026-01-01T00:00:00Z"}
    kube.merge(TASK_RUNS.path(namespace, name, "status"), {"status": status})


CHANGES: dict[str, Callable[[Kube, str], None]] = {
    "run": lambda kube, namespace: annotate(kube, PIPELINE_RUNS, namespace, "old", hold="true"),
    "run misspelt": lambda kube, namespace: annotate(kube, PIPELINE_RUNS, namespace, "old", hold="True"),
    "its TaskRun": lambda kube, namespace: annotate(kube, TASK_RUNS, namespace, "old-task", hold="true"),
    "namespace": lambda kube, namespace: annotate(kube, NAMESPACES, None, namespace, hold="true"),
    "namespace misspelt": lambda kube, namespace: annotate(kube, NAMESPACES, None, namespace, hold="yes"),
    "retention": lambda kube, namespace: annotate(
        kube, NAMESPACES, None, namespace, retention=None, retention_size=None
    ),
}


@pytest.mark.parametrize("limit", ["retention", "retention-size"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_hold_since_the_judgement_counts(
    kube: Kube, namespace: str, store: Store, settings: Settings, change: str, limit: str
) -> None:
    """Put on after content was judged and before it is deleted, also where retention was taken off: it stays."""
    old = run(kube, namespace, "old")
    run(kube, namespace, "old-task", TASK_RUNS, **of(old, "old"))
    fill(store, namespace, old)
    complete(kube, namespace, "old")
    annotate(kube, NAMESPACES, None, namespace, **{limit: "1s" if limit == "retention" else "1"})
    eventually(lambda: verdicts(kube, store, settings, namespace)[old].reason in (AGE, SIZE))
    sweeper = Sweeper(kube, store, settings)
    judged = list(sweeper.judge(namespace))
    CHANGES[change](kube, namespace)
    assert not sweeper.execute(judged, lambda: True).deleted
    assert sweep(kube, store, settings, namespace) == {old}


def test_what_is_gone_since_the_judgement_is_judged_anew(
    kube: Kube, namespace: str, store: Store, settings: Settings
) -> None:
    """A run deleted meanwhile has its grace and its namespace's retain-after-delete; a longer one counts for orphans."""
    old, gone = run(kube, namespace, "old"), uuid4()
    for uid in (old, gone):
        fill(store, namespace, uid)
    complete(kube, namespace, "old")
    retain(kube, namespace, "1s")
    eventually(lambda: verdicts(kube, store, settings, namespace)[old].reason == AGE)
    sweeper = Sweeper(kube, store, settings)
    judged = list(sweeper.judge(namespace))
    assert {verdict.uid: verdict.reason for verdict in judged} == {old: AGE, gone: ORPHAN}
    kube.delete(PIPELINE_RUNS, namespace, "old")
    assert [verdict.uid for verdict in sweeper.execute(judged, lambda: True).deleted] == [gone]
    fill(store, namespace, gone)
    judged = list(sweeper.judge(namespace))
    assert {verdict.uid: verdict.reason for verdict in judged} == {old: ORPHAN, gone: ORPHAN}
    annotate(kube, NAMESPACES, None, namespace, retain_after_delete="30d")
    assert not sweeper.execute(judged, lambda: True).deleted
    assert {uid for _, uid in store.runs(namespace)} == {old, gone}


@pytest.mark.parametrize("text", ["True", "yes", ""])
def test_a_hold_that_means_nothing_keeps_content(
    kube: Kube, namespace: str, store: Store, settings: Settings, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On a run, its TaskRun or a namespace it is told by name and value, and content stays; `"false"` is no hold."""
    uids = {name: run(kube, namespace, name) for name in ("old", "misspelt", "below")}
    for name, uid in uids.items():
        fill(store, namespace, uid)
        complete(kube, namespace, name)
    annotate(kube, PIPELINE_RUNS, namespace, "misspelt", hold=text)
    below = {**of(uids["below"], "below"), "annotations": {"resultsfs.dev/hold": text}}
    run(kube, namespace, "below-task", TASK_RUNS, **below)
    annotate(kube, PIPELINE_RUNS, namespace, "old", hold="false")
    retain(kube, namespace, "1s")
    eventually(lambda: verdicts(kube, store, settings, namespace)[uids["old"]].reason == AGE)
    bad = f"annotation resultsfs.dev/hold is {text!r}: expected"
    found = verdicts(kube, store, settings, namespace)
    assert f"PipelineRun {namespace}/misspelt may be held: {bad}" in found[uids["misspelt"]].why
    assert f"TaskRun {namespace}/below-task may be held: {bad}" in found[uids["below"]].why
    assert bad in caplog.text
    annotate(kube, NAMESPACES, None, namespace, hold=text)
    assert sweep(kube, store, settings, namespace) == set(uids.values())
    assert f"namespace {namespace}: nothing is deleted there: it may be held: {bad}" in caplog.text
    annotate(kube, NAMESPACES, None, namespace, hold="false")
    assert sweep(kube, store, settings, namespace) == {uids["misspelt"], uids["below"]}


def test_a_held_run_holds_all_that_it_belongs_to(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """Content is the topmost PipelineRun's: a TaskRun's hold keeps it, through a child's PipelineRun, too."""
    top, other = run(kube, namespace, "top"), run(kube, namespace, "other")
    child = run(kube, namespace, "child", **of(top, "top"))
    run(kube, namespace, "task", TASK_RUNS, **of(child, "child"), annotations={"resultsfs.dev/hold": "true"})
    for name, uid in (("top", top), ("other", other)):
        fill(store, namespace, uid)
        complete(kube, namespace, name)
    retain(kube, namespace, "1s")
    eventually(lambda: verdicts(kube, store, settings, namespace)[other].reason == AGE)
    assert verdicts(kube, store, settings, namespace)[top].why == f"TaskRun {namespace}/task is held"
    assert sweep(kube, store, settings, namespace) == {top}
    annotate(kube, TASK_RUNS, namespace, "task", hold=None)
    assert sweep(kube, store, settings, namespace) == set()


def test_own_runs_do_not_end_retention(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """A PipelineRun's own TaskRuns that were given its content as paths keep it no longer than the run itself does."""
    top = run(kube, namespace, "top")
    child = run(kube, namespace, "child", **of(top, "top"))
    taken = {"resultsfs.dev/references": json.dumps([fill(store, namespace, top).name])}
    for name, parent, of_ in (("near", top, "top"), ("far", child, "child")):
        run(kube, namespace, name, TASK_RUNS, **of(parent, of_), annotations=taken)
        done(kube, namespace, name)
    retain(kube, namespace, "1s")
    assert sweep(kube, store, settings, namespace) == {top}
    complete(kube, namespace, "top")
    eventually(lambda: sweep(kube, store, settings, namespace) == set())


def test_others_keep_what_they_were_given(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """Retention counts from when the last of them completed; while one runs or is held, and for an orphan, it stays."""
    top, gone = run(kube, namespace, "top"), uuid4()
    names = [fill(store, namespace, uid).name for uid in (top, gone)]
    taken = {"resultsfs.dev/references": json.dumps(names)}
    run(kube, namespace, "reads", TASK_RUNS, annotations=taken)
    complete(kube, namespace, "top")
    retain(kube, namespace, "1s")
    assert verdicts(kube, store, settings, namespace)[top].why == f"TaskRun {namespace}/reads, which needs it, runs"
    done(kube, namespace, "reads")
    retain(kube, namespace, "1h")
    found = verdicts(kube, store, settings, namespace)[top]
    assert found.wait is not None and 3500 < found.wait <= 3600
    assert f"TaskRun {namespace}/reads, which needs it, completed at" in found.why or "top completed at" in found.why
    annotate(kube, TASK_RUNS, namespace, "reads", hold="true")
    retain(kube, namespace, "1s")
    assert sweep(kube, store, settings, namespace) == {top, gone}
    annotate(kube, TASK_RUNS, namespace, "reads", hold=None)
    eventually(lambda: sweep(kube, store, settings, namespace) == {gone})
    kube.delete(TASK_RUNS, namespace, "reads")
    assert sweep(kube, store, settings, namespace) == set()
