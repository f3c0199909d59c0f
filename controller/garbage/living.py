"""The runs that there are, as etcd has them at one moment, and the content that they hold on to."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from controller.admission.names import PIPELINE_RUN_UID
from controller.kube.client import Kube
from controller.kube.errors import ApiUnavailable
from controller.kube.resources import RUNS, Resource, Tree, annotations_of
from resultsfs.annotations import REFERENCES, is_held
from resultsfs.errors import InvalidSetting
from resultsfs.reference import Reference

HELD = "is held"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that there is. `held`: why its content stays by its annotation; `parents`: the UIDs of what made it."""

    resource: Resource
    namespace: str
    name: str
    uid: UUID
    held: str = ""
    parents: tuple[UUID, ...] = ()

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.resource.kind} {self.namespace}/{self.name}"


@dataclass(slots=True)
class Living:
    """All runs of a namespace, or of all, by (namespace, UID); `date` is the API server's clock.

    `kin`: UIDs to which a living run belongs, whether or not these are there any more (a PipelineRun may be deleted
    without its TaskRuns). `taken`: runs whose content living runs were given as paths. `held`: runs whose content stays
    by an annotation, on themselves or on a run that belongs to them.
    """

    date: datetime
    runs: dict[tuple[str, UUID], Run] = field(default_factory=dict)
    kin: dict[tuple[str, UUID], Run] = field(default_factory=dict)
    taken: dict[tuple[str, UUID], list[Run]] = field(default_factory=dict)
    held: dict[tuple[str, UUID], Run] = field(default_factory=dict)

    def holder(self, namespace: str, run: UUID) -> Run | None:
        """The run because of which content of `run` stays although `run` itself may be gone."""
        return self.kin.get((namespace, run)) or next(iter(self.taken.get((namespace, run), ())), None)

    def takers(self, namespace: str, run: UUID) -> list[Run]:
        """Runs of others that were given content of `run` as a path; its own have it for as long as it has itself."""
        return [taker for taker in self.taken.get((namespace, run), ()) if run not in self.line(taker)]

    def line(self, run: Run) -> set[UUID]:
        """The UIDs of a run and of all that it belongs to, as far as these are there."""
        found, ahead = {run.uid}, list(run.parents)
        while ahead:
            uid = ahead.pop()
            if uid not in found:
                found.add(uid)
                parent = self.runs.get((run.namespace, uid))
                ahead.extend(parent.parents if parent is not None else ())
        return found


def look(kube: Kube, namespace: str | None = None) -> Living:
    """Ask etcd, not a cache. Raises ApiError: an answer that did not come whole is no absence."""
    living: Living | None = None
    for resource in RUNS:
        for page in kube.pages(resource, namespace, metadata_only=True):
            if page.date is None:
                raise ApiUnavailable(f"list {resource.plural}: the API server did not tell its time")
            living = living or Living(page.date)
            for tree in page.items:
                _add(living, resource, tree)
    assert living is not None
    for run in living.runs.values():
        for uid in living.line(run) if run.held else ():
            living.held.setdefault((run.namespace, uid), run)
    return living


def held(annotations: Mapping[str, str]) -> str:
    """Why the content of an object with these stays, for people; empty where it does not."""
    try:
        return HELD if is_held(annotations) else ""
    except InvalidSetting as error:
        return f"may be held: {error}"


def _add(living: Living, resource: Resource, tree: Tree) -> None:
    metadata = tree["metadata"]
    namespace = metadata["namespace"]
    owners = [owner.get("uid") for owner in metadata.get("ownerReferences") or []]
    named = map(_uid, (*owners, (metadata.get("labels") or {}).get(PIPELINE_RUN_UID)))
    parents = tuple(uid for uid in named if uid is not None)
    run = Run(resource, namespace, metadata["name"], UUID(metadata["uid"]), held(annotations_of(tree)), parents)
    living.runs[namespace, run.uid] = run
    for uid in parents:
        living.kin.setdefault((namespace, uid), run)
    for uid in set(_taken(annotations_of(tree), run)):
        living.taken.setdefault((namespace, uid), []).append(run)


def _uid(text: object) -> UUID | None:
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None  # somebody's own label


def _taken(annotations: Mapping[str, str], run: Run) -> Iterator[UUID]:
    text = annotations.get(REFERENCES)
    if text is None:
        return
    try:
        names = json.loads(text)
    except ValueError:
        _log.warning("%s: annotation %s is not ours: %.100r", run.label, REFERENCES, text)
        return
    for name in names if isinstance(names, list) else ():
        reference = Reference.from_name(name) if isinstance(name, str) else None
        if reference is not None:
            yield reference.run
