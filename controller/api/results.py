"""Results of a run, as its status has them, and what is known of their content."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from controller.kube.resources import Tree
from resultsfs import manifest
from resultsfs.errors import ContentMissing
from resultsfs.local.model import value_of
from resultsfs.manifest import ManifestEntry
from resultsfs.record import ResultType, ResultValue
from resultsfs.store import Key, Store
from resultsfs.typed import type_of
from resultsfs.value import encoded, references, single_reference

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """One result: its value as status has it, with references in it."""

    name: str
    type: ResultType
    value: ResultValue

    @property
    def spilled(self) -> bool:
        """Whether some of it is in the store."""
        return bool(references(self.value))


def results_of(run: Tree) -> list[Result]:
    """A run's own results, in order."""
    found = []
    for tree in (run.get("status") or {}).get("results") or []:
        value = value_of(tree.get("value"))
        declared = tree.get("type")
        kind = ResultType(declared) if declared in tuple(ResultType) else type_of(value)
        found.append(Result(str(tree["name"]), kind, value))
    return found


def described(results: list[Result], store: Store, namespace: str, task_run: str | None) -> list[dict[str, Any]]:
    """The list as the API gives it: sizes in bytes and SHA-256 of the content as the step wrote it.

    Both are null where nobody knows them: a pipeline's array or object of which only parts are in the store.
    """
    known = _manifest(results, store, namespace, task_run) if task_run is not None else {}
    return [_described(result, store, namespace, known.get(result.name)) for result in results]


def _described(result: Result, store: Store, namespace: str, entry: ManifestEntry | None) -> dict[str, Any]:
    size: int | None = None
    sha256: str | None = None
    stored = True
    reference = single_reference(result.value)
    if reference is not None:
        sha256 = reference.sha256
    try:
        sizes = [store.size(Key.of(namespace, reference)) for reference in references(result.value)]
    except ContentMissing:
        stored, sizes = False, []
    if not result.spilled:
        data = encoded(result.value)
        size, sha256 = len(data), hashlib.sha256(data).hexdigest()
    elif reference is not None and sizes:
        size = sizes[0]
    elif reference is None and entry is not None:
        size, sha256 = entry.size, entry.sha256
    return {
        "name": result.name,
        "type": result.type.value,
        "size": size,
        "sha256": sha256,
        "spilled": result.spilled,
        "available": stored,
    }


def _manifest(results: list[Result], store: Store, namespace: str, task_run: str) -> dict[str, ManifestEntry]:
    """What the TaskRun's pods noted of results that are spilled in parts; the latest of each name."""
    runs = {reference.run for result in results for reference in references(result.value)}
    entries: list[ManifestEntry] = []
    for run in runs:
        for found in store.manifests(namespace, run, task_run):
            entries += _entries(found.data, task_run)
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.when)}


def _entries(data: bytes, task_run: str) -> Iterator[ManifestEntry]:
    try:
        yield from manifest.parse(data)
    except ValueError as error:
        _log.warning("the manifest of TaskRun %s is left out: %s", task_run, error)
