"""Admission of runs: content goes back where references stand, or the run is refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controller.admission.content import TimedContent
from controller.admission.names import PIPELINE_TASK
from controller.admission.patch import annotate, replace
from controller.admission.policy import Policies
from controller.admission.review import ADMITTED, Answer, Request, invalid, unavailable
from controller.admission.size import LARGEST, stored_size
from controller.kube.errors import ApiError
from controller.kube.resources import Tree, annotations_of
from resultsfs.annotations import INJECT, REFERENCES, RESOLVED
from resultsfs.errors import ContentMissing, InvalidSetting, ResolveError, StoreError
from resultsfs.local.model import value_of
from resultsfs.reference import Reference, find
from resultsfs.resolve import LIMIT_ANNOTATION, PATH_ANNOTATION, Params, Resolution, resolve
from resultsfs.settings import Settings
from resultsfs.store import Store
from resultsfs.variables import strings

EMBEDDED = {"TaskRun": "taskSpec", "PipelineRun": "pipelineSpec", "CustomRun": "customSpec"}
"""Where a run of each kind may carry what it runs, into which Tekton substitutes results too."""
RECORDED = 200
"""Places of which RESOLVED tells; an array of thousands would not fit an annotation."""
_UNHEARD = f' Paths are not handed over where {INJECT} is "false", for the pod has no volume that serves them: set it to "true".'

Put = Callable[[int], None]
"""Told of the bytes that were put back into one run."""


@dataclass(frozen=True, slots=True)
class RunAdmission:
    """Answers for TaskRuns, child PipelineRuns and CustomRuns. `store` is asked for where there are references only.
    `until`: the moment of time.monotonic to answer by."""

    policies: Policies
    store: Callable[[], Store]
    until: float
    put: Put = lambda size: None

    def answer(self, request: Request) -> Answer:
        """Admitted with content put back, 422 for what can never be put back, 503 where nothing is known."""
        spec = request.object.get("spec") or {}
        field = EMBEDDED.get(request.kind)
        if field is None:
            return ADMITTED
        given, tree = spec.get("params") or [], spec.get(field)
        if not isinstance(given, list) or not all(isinstance(param, dict) for param in given):
            return ADMITTED  # the CRD's validation comes next
        params = tuple((str(param.get("name", "")), value_of(param.get("value"))) for param in given)
        references = frozenset(_references(params, tree))
        if not references:
            return Answer(operations=[*_note(request.object, RESOLVED, None), *_note(request.object, REFERENCES, None)])
        metadata = request.object.get("metadata", {})
        label = (metadata.get("labels") or {}).get(PIPELINE_TASK) or request.label
        content = TimedContent(self.store(), request.namespace, self.until)
        unheard = False
        try:
            settings = self._settings(request)
            as_path = settings.params_as_path and self.policies.injects(request.namespace, request.object)
            unheard = settings.params_as_path and not as_path
            resolution = resolve(
                params,
                tree,
                content,
                as_path=as_path,
                limit=settings.param_inline_limit,
                label=label,
                tree_name=field,
            )
            left = frozenset(_references(resolution.params, resolution.task_spec)) & references
            if as_path:
                _check_there(left, content, label)
            if resolution.put_back:
                _check_kept(_patched(request.object, field, params, resolution), request.kind, label)
        except (ResolveError, InvalidSetting) as error:
            return invalid(f"{error}{_UNHEARD if unheard else ''}")
        except (StoreError, ApiError) as error:
            return unavailable(f'pipeline task "{label}": what its references stand for cannot be read now: {error}')
        self.put(sum(back.size for back in resolution.put_back))
        return Answer(
            operations=_operations(request.object, field, params, tree, resolution, left if as_path else frozenset())
        )

    def _settings(self, request: Request) -> Settings:
        run = f"{request.kind} {request.label!r}"
        others: list[tuple[str, Mapping[str, str]]] = [(run, annotations_of(request.object))]
        if request.kind == "TaskRun" and (task := self.policies.of_task(request.namespace, request.object)):
            others.insert(0, (f"Task of {run}", task))
        return self.policies.settings(request.namespace, *others)


def _references(params: Params, tree: Any) -> Iterator[Reference]:
    for _, text in strings([[value for _, value in params], tree]):
        for occurrence in find(text):
            yield occurrence.reference


def _check_there(references: frozenset[Reference], content: TimedContent, label: str) -> None:
    """A path that leads nowhere is refused now, not found by a step. Raises ResolveError."""
    for reference in references:
        try:
            content.size(reference)
        except ContentMissing:
            raise ResolveError(
                f'pipeline task "{label}": {reference} is unknown or expired: its content belongs to another '
                "namespace, or its run was deleted. Run the task that wrote it again."
            ) from None


def _patched(run: Tree, field: str, params: Params, resolution: Resolution) -> Tree:
    """The run with its content, but for what annotations say of it."""
    trees = [
        tree if before == after else {**tree, "value": after}
        for tree, (_, before), (_, after) in zip(
            run["spec"].get("params") or (), params, resolution.params, strict=True
        )
    ]
    embedded = {} if resolution.task_spec is None else {field: resolution.task_spec}
    return {**run, "spec": {**run["spec"], "params": trees, **embedded}}


def _check_kept(run: Tree, kind: str, label: str) -> None:
    """What etcd does not take is an error of the API server's, after which Tekton tries for ever. Raises ResolveError."""
    size = stored_size(run)
    if size > LARGEST:
        raise ResolveError(
            f'pipeline task "{label}": with content in the place of its references this {kind} has {size} bytes as JSON, '
            f"escapes counted, of which at most {LARGEST} fit into etcd, whatever {LIMIT_ANNOTATION} says. "
            f'To be given the path of a file to read instead, set the annotation {PATH_ANNOTATION}: "true".'
        )


def _operations(
    run: Tree,
    field: str,
    params: Params,
    tree: Any,
    resolution: Resolution,
    left: frozenset[Reference],
) -> list[Tree]:
    operations = [
        replace(after, "spec", "params", index, "value")
        for index, ((_, before), (_, after)) in enumerate(zip(params, resolution.params, strict=True))
        if before != after
    ]
    if resolution.task_spec != tree:
        operations.append(replace(resolution.task_spec, "spec", field))
    kept = json.dumps(sorted(reference.name for reference in left)) if left else None
    notes = (_record(resolution) if resolution.put_back else None, kept)
    for name, text in zip((RESOLVED, REFERENCES), notes, strict=True):
        made = _note(run, name, text)
        if made and run.get("metadata", {}).get("annotations") is None:
            # The first of two notes makes the mapping that the second goes into.
            run = {**run, "metadata": {**run.get("metadata", {}), "annotations": {name: text}}}
        operations += made
    return operations


def _note(run: Tree, name: str, text: str | None) -> list[Tree]:
    # What stands there otherwise came from the PipelineRun, whose annotations Tekton copies, or from a person.
    return annotate(run, name, text)


def _record(resolution: Resolution) -> str:
    """param → what was put back into it."""
    record: dict[str, Any] = {}
    for back in resolution.put_back[:RECORDED]:
        record.setdefault(back.where, []).append({"sha256": back.sha256, "size": back.size})
    if len(resolution.put_back) > RECORDED:
        record["…"] = f"{len(resolution.put_back) - RECORDED} more"
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)
