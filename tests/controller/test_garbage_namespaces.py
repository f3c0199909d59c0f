"""What a namespace wanted of its content holds after the namespace itself is gone, on a real API server."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from controller.garbage.gone import UNKNOWN, Gone, Wish, parse
from controller.garbage.sweep import Sweeper, Verdict
from controller.kube.client import Kube
from controller.kube.resources import NAMESPACES, Resource
from resultsfs.settings import Settings
from resultsfs.store import Store
from resultsfs.store_names import gone_path
from tests.controller.test_garbage import fill, sweep, verdicts

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

DAY = 86_400.0


class _Finalize(Resource):
    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        return NAMESPACES.path(None, name, "finalize")


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


def annotate(kube: Kube, namespace: str, **annotations: str) -> None:
    """Set a namespace's annotations."""
    found = {f"resultsfs.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    kube.patch(NAMESPACES, None, namespace, {"metadata": {"annotations": None}})
    kube.patch(NAMESPACES, None, namespace, {"metadata": {"annotations": found}})


def remove(kube: Kube, namespace: str) -> None:
    """Delete a namespace; nobody is there to finalize it."""
    tree = kube.delete(NAMESPACES, None, namespace)
    tree["spec"]["finalizers"] = []
    kube.update(_Finalize("", "v1", "namespaces", "Namespace"), None, tree)


def wait(verdict: Verdict) -> float:
    """Days until it goes."""
    assert not verdict.reason and verdict.wait is not None, verdict
    return verdict.wait / DAY


def test_retention_outlives_its_namespace(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """What the namespace wanted when it was last seen counts, or what the cluster wants if that is longer."""
    gone = uuid4()
    fill(store, namespace, gone)
    annotate(kube, namespace, retain_after_delete="10d")
    assert sweep(kube, store, settings, namespace) == {gone}
    annotate(kube, namespace, retain_after_delete="30d")
    assert sweep(kube, store, settings, namespace) == {gone}
    remove(kube, namespace)
    assert sweep(kube, store, settings, namespace) == {gone}
    assert wait(verdicts(kube, store, settings, namespace)[gone]) == pytest.approx(30, abs=0.1)
    longer = dataclasses.replace(settings, retain_after_delete=40 * DAY)
    assert wait(verdicts(kube, store, longer, namespace)[gone]) == pytest.approx(40, abs=0.1)


def test_a_namespace_that_wanted_nothing_keeps_nothing(
    kube: Kube, namespace: str, store: Store, settings: Settings
) -> None:
    """Where it could be read and had no annotation, content goes by the cluster's settings as before."""
    gone = uuid4()
    fill(store, namespace, gone)
    patient = dataclasses.replace(settings, garbage_grace=3600)
    assert sweep(kube, store, patient, namespace) == {gone}
    remove(kube, namespace)
    assert sweep(kube, store, settings, namespace) == set()


@pytest.mark.parametrize("text", ["true", "True"])
def test_a_hold_outlives_its_namespace(kube: Kube, namespace: str, store: Store, settings: Settings, text: str) -> None:
    """It ends where the namespace is made again without it, and the grace begins then; so does one that is misspelt."""
    gone = uuid4()
    fill(store, namespace, gone)
    annotate(kube, namespace, hold=text)
    assert sweep(kube, store, settings, namespace) == {gone}
    remove(kube, namespace)
    assert sweep(kube, store, settings, namespace) == {gone}
    found = verdicts(kube, store, settings, namespace)[gone]
    assert (found.reason, found.wait) == ("", None)
    assert "was held when it was deleted: make it again without resultsfs.dev/hold" in found.why
    kube.create(NAMESPACES, None, {"metadata": {"name": namespace}})
    patient = dataclasses.replace(settings, garbage_grace=3600)
    noted = parse(store.note(gone_path(namespace, gone)))
    assert sweep(kube, store, patient, namespace) == {gone}
    assert noted is not None and noted.wish == Wish(0.0, held=True)
    released = parse(store.note(gone_path(namespace, gone)))
    assert released is not None and released.wish == Wish(0.0) and released.since >= noted.since
    assert sweep(kube, store, settings, namespace) == set()


def test_what_was_last_known_counts(kube: Kube, namespace: str, store: Store, settings: Settings) -> None:
    """A run that is deleted together with its namespace after a sweep saw that one: the leader remembers, and notes it."""
    known: dict[str, Wish] = {}
    first, second = uuid4(), uuid4()
    fill(store, namespace, first)
    annotate(kube, namespace, retain_after_delete="30d")
    list(Sweeper(kube, store, settings, known).judge(namespace))
    fill(store, namespace, second)
    remove(kube, namespace)
    list(Sweeper(kube, store, settings, known).judge(namespace))
    found = verdicts(kube, store, settings, namespace)
    assert [wait(found[uid]) for uid in (first, second)] == pytest.approx([30, 30], abs=0.1)


@pytest.mark.parametrize("old", [False, True], ids=["no note", "a note of the time alone"])
def test_a_namespace_that_nobody_saw_keeps_its_content_for_a_week(
    kube: Kube, store: Store, settings: Settings, *, old: bool
) -> None:
    """Whether it wanted more cannot be known; content stays as if it had wanted seven days, and the verdict says why."""
    namespace, gone = f"never-{os.getpid()}-{old:d}", uuid4()
    fill(store, namespace, gone)
    if old:
        store.put_note(gone_path(namespace, gone), datetime.now(UTC).isoformat().encode())
    assert sweep(kube, store, settings, namespace) == {gone}
    found = verdicts(kube, store, settings, namespace)[gone]
    assert wait(found) == pytest.approx(UNKNOWN / DAY, abs=0.1)
    assert "before anybody read how long it keeps content" in found.why


def test_notes_that_cannot_be_read_are_none() -> None:
    """A whole note is read back, the one of old versions too, and half of one lets the time begin anew."""
    for wish in (None, Wish(2.0), Wish(0.0, held=True)):
        gone = parse(b"2026-01-02T00:00:00+00:00")
        assert gone is not None and gone.wish is None
        gone = Gone(gone.since, wish)
        assert parse(gone.encoded()) == gone
        assert parse(gone.encoded()[:-5]) is None
    for note in (None, b"", b"{}", b"[]", b"\xff", b"2026-01-02T00:00:00", b'{"since": 1}'):
        assert parse(note) is None
