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
from resultsfs.annotations import HOLD, REFERENCES
from resultsfs.reference import Reference

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that there is."""

    resource: Resource
    namespace: str
    name: str
    uid: UUID
    held: bool

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.resource.kind} {self.namespace}/{self.name}"


@dataclass(slots=True)
class Living:
    """All runs of a namespace, or of all, by (namespace, UID); `date` is the API server's clock.

    `kin`: UIDs to which a living run belongs, whether or not these are there any more (a PipelineRun may be deleted
    without its TaskRuns). `taken`: runs whose content a living run was given as a path.
    """

    date: datetime
    runs: dict[tuple[str, UUID], Run] = field(default_factory=dict)
    kin: dict[tuple[str, UUID], Run] = field(default_factory=dict)
    taken: dict[tuple[str, UUID], Run] = field(default_factory=dict)

    def holder(self, namespace: str, run: UUID) -> Run | None:
        """The run because of which content of `run` stays although `run` itself may be gone."""
        return self.kin.get((namespace, run)) or self.taken.get((namespace, run))


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
    return living


def _add(living: Living, resource: Resource, tree: Tree) -> None:
    metadata = tree["metadata"]
    namespace = metadata["namespace"]
    held = annotations_of(tree).get(HOLD) == "true"
    run = Run(resource, namespace, metadata["name"], UUID(metadata["uid"]), held)
    living.runs[namespace, run.uid] = run
    owners = [owner.get("uid") for owner in metadata.get("ownerReferences") or []]
    for text in (*owners, (metadata.get("labels") or {}).get(PIPELINE_RUN_UID)):
        if (uid := _uid(text)) is not None:
            living.kin.setdefault((namespace, uid), run)
    for uid in _taken(annotations_of(tree), run):
        living.taken.setdefault((namespace, uid), run)


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
