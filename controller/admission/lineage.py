"""What the runs above a TaskRun say of its results: whose content it is, and which must stay inline.

Results stay inline where Tekton itself reads them while it plans (`resultsfs.usage`). A pipeline's own results carry
that on: what a parent pipeline uses of its child, the child's tasks must keep.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from controller.admission.names import PIPELINE_TASK
from controller.kube.client import Kube
from controller.kube.errors import NotFound
from controller.kube.resources import (
    PIPELINE_RUNS,
    PIPELINES,
    TASKS,
    Resource,
    Tree,
    controller_of,
    run_resource,
    task_name,
)
from resultsfs.record import Keep
from resultsfs.usage import embedded_params, kept_results
from resultsfs.variables import result_uses, strings

DEPTH = 32
"""Pipelines in pipelines, and custom runs between them; deeper is a loop."""
PATIENCE = 2.0
"""Seconds to wait for a PipelineRun's first status, which Tekton writes after it has made the first TaskRuns."""
_PAUSE = 0.05
_REMEMBERED = 2000
_log = logging.getLogger(__name__)

Kept = Mapping[str, Mapping[str, Keep]]
"""How far results must stay inline, by pipeline task and result."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """What matters of a run above: `kept` None where its pipeline could not be learnt, `results` what each of the
    pipeline's own results is made of."""

    resource: Resource
    name: str
    uid: str
    pipeline_task: str
    owner: Tree | None
    kept: Kept | None = None
    results: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lineage:
    """A TaskRun's ancestors, the nearest first."""

    task_run: Tree
    ancestors: tuple[Ancestor, ...]

    @property
    def run(self) -> tuple[str, str, UUID]:
        """Kind, name and UID of the topmost PipelineRun, or of the TaskRun itself."""
        for ancestor in reversed(self.ancestors):
            if ancestor.resource is PIPELINE_RUNS:
                return "PipelineRun", ancestor.name, UUID(ancestor.uid)
        metadata = self.task_run["metadata"]
        return "TaskRun", metadata["name"], UUID(metadata["uid"])

    def kept(self, results: Iterable[str]) -> dict[str, Keep]:
        """How far each of these results of the TaskRun must stay inline; all of them where that is not known."""
        declared = tuple(results)
        if not self.ancestors or self.ancestors[0].resource is not PIPELINE_RUNS:
            return {}
        found = _kept(self.ancestors, 0, _pipeline_task(self.task_run))
        if found is None:
            return dict.fromkeys(declared, Keep.INLINE)
        return {name: found[name] for name in declared if name in found}


def _kept(ancestors: tuple[Ancestor, ...], level: int, task: str) -> dict[str, Keep] | None:
    """The results of a pipeline's task that must stay inline, by this pipeline and those above; None: not known."""
    ancestor = ancestors[level]
    if ancestor.kept is None:
        return None
    found = dict(ancestor.kept.get(task, {}))
    if level + 1 < len(ancestors) and ancestors[level + 1].resource is PIPELINE_RUNS:
        wanted = _kept(ancestors, level + 1, ancestor.pipeline_task)
        for name, value in ancestor.results.items():
            keep = Keep.INLINE if wanted is None else wanted.get(name)
            for use in result_uses(value) if keep is not None else ():
                if use.task == task and keep is not None and found.get(use.result) is not Keep.INLINE:
                    found[use.result] = keep
    return found


class Lineages:
    """Looks runs up, each with the UID that its child claims. Methods raise ApiError. Thread-safe."""

    def __init__(self, kube: Kube, patience: float = PATIENCE) -> None:
        self._kube = kube
        self._patience = patience
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Ancestor] = OrderedDict()

    def of(self, namespace: str, task_run: Tree) -> Lineage:
        """The TaskRun's lineage. A claim that does not hold ends it."""
        chain: list[Ancestor] = []
        owner = controller_of(task_run)
        while owner is not None and len(chain) < DEPTH:
            ancestor = self._ancestor(namespace, owner)
            if ancestor is None:
                break
            chain.append(ancestor)
            owner = ancestor.owner
        return Lineage(task_run, tuple(chain))

    def _ancestor(self, namespace: str, owner: Tree) -> Ancestor | None:
        resource = run_resource(owner)
        if resource is None:
            return None
        key = (namespace, str(owner.get("uid")))
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        tree = claimed(self._kube, resource, namespace, owner)
        if tree is None:
            return None
        ancestor = _plain(resource, tree)
        if resource is PIPELINE_RUNS:
            ancestor = self._with_pipeline(namespace, owner, ancestor, tree)
        if resource is not PIPELINE_RUNS or ancestor.kept is not None:
            with self._lock:
                self._known[key] = ancestor
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return ancestor

    def _with_pipeline(self, namespace: str, owner: Tree, ancestor: Ancestor, tree: Tree) -> Ancestor:
        """With what its pipeline says: as Tekton wrote it into the status, else as the run embeds or names it."""
        until = time.monotonic() + self._patience
        while True:
            spec = (tree.get("status") or {}).get("pipelineSpec")
            if spec is None and not _plans_with_params(tree):
                spec = tree["spec"].get("pipelineSpec")
            if spec is not None:
                break
            if time.monotonic() > until:
                spec = self._named(namespace, tree)
                break
            time.sleep(_PAUSE)
            newer = claimed(self._kube, PIPELINE_RUNS, namespace, owner)
            if newer is None:
                break
            tree = newer
        if spec is None:
            _log.warning(
                "PipelineRun %s/%s: its pipeline is not known, all results stay inline", namespace, ancestor.name
            )
            return ancestor
        return Ancestor(
            ancestor.resource,
            ancestor.name,
            ancestor.uid,
            ancestor.pipeline_task,
            ancestor.owner,
            kept=kept_results(spec, tree["spec"], self._declared(namespace)),
            results={result["name"]: result.get("value") for result in spec.get("results") or ()},
        )

    def _declared(self, namespace: str) -> Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]]:
        """What tells the params that a pipeline task's Task declares: its own, or those of the namespace's Task that
        it names. Tasks from a resolver are not in the API, nor is one that Tekton will not find."""
        found: dict[str, Iterable[Tree]] = {}

        def declared(task: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
            name = task_name(task.get("taskRef") or {})
            if name is None:
                return embedded_params(task)
            if name not in found:
                try:
                    found[name] = self._kube.get(TASKS, namespace, name)["spec"].get("params") or ()
                except NotFound:
                    found[name] = ()
            return found[name]

        return declared

    def _named(self, namespace: str, tree: Tree) -> Tree | None:
        """The spec of the namespace's Pipeline that a run names."""
        reference = tree["spec"].get("pipelineRef") or {}
        if not reference.get("name") or reference.get("resolver") or _plans_with_params(tree):
            return None
        try:
            spec: Tree = self._kube.get(PIPELINES, namespace, reference["name"])["spec"]
        except NotFound:
            return None
        return spec


def claimed(kube: Kube, resource: Resource, namespace: str, owner: Tree) -> Tree | None:
    """The run that an owner reference names, if it has the UID that is claimed; None otherwise. Raises ApiError."""
    try:
        tree = kube.get(resource, namespace, str(owner.get("name")))
    except NotFound:
        return None
    return tree if tree["metadata"]["uid"] == owner.get("uid") else None


def _plain(resource: Resource, tree: Tree) -> Ancestor:
    metadata = tree["metadata"]
    return Ancestor(resource, metadata["name"], metadata["uid"], _pipeline_task(tree), controller_of(tree))


def _pipeline_task(tree: Tree) -> str:
    return str((tree["metadata"].get("labels") or {}).get(PIPELINE_TASK, ""))


def _plans_with_params(tree: Tree) -> bool:
    """Whether a param's value could name a result once it is put in place: then only the status tells."""
    return any("$(" in text for _, text in strings([param.get("value") for param in tree["spec"].get("params") or ()]))
