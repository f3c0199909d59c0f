"""Loading YAML: Task, TaskRun, Pipeline and PipelineRun, several documents a file, into what is to be run."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from resultsfs import strict_yaml
from resultsfs.errors import InvalidDocument
from resultsfs.local import checks, schema
from resultsfs.local.checks import Where
from resultsfs.local.model import (
    Pipeline,
    PipelineRun,
    Run,
    Task,
    TaskRun,
    TaskRunSpec,
    TaskSpec,
    WorkspaceBinding,
    WorkspaceDeclaration,
    params_of,
)
from resultsfs.local.validate import check_pipeline, check_run_timeouts, check_task

_T = TypeVar("_T")
_Key = tuple[str, str]
"""Namespace and name."""
_VERSIONS = ("tekton.dev/v1", "tekton.dev/v1beta1")
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAMESPACE = re.compile(_LABEL)
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(slots=True)
class Documents:
    """What a file holds, by kind, namespace and name."""

    tasks: dict[_Key, Task] = field(default_factory=dict)
    pipelines: dict[_Key, Pipeline] = field(default_factory=dict)
    runs: dict[_Key, _Document] = field(default_factory=dict)
    source: str = ""

    def select(self, name: str | None = None) -> Run:
        """What is to be run: the file's one run, else a run made for its one Pipeline, else for its one Task.

        `name` chooses among several of the same kind; with NAMESPACE/ before it where that is not enough. A run that
        is made is in the namespace of what it runs. Raises InvalidDocument when the choice is not clear.
        """
        if self.runs:
            return self._run(self.runs[self._choose(self.runs, "runs", name)])
        if self.pipelines:
            namespace, _ = key = self._choose(self.pipelines, "Pipelines", name)
            pipeline = self.pipelines[key]
            return PipelineRun(
                name=_generated(f"{pipeline.name}-run-"),
                namespace=namespace,
                annotations={},
                params=(),
                pipeline=pipeline,
                workspaces=_made_bindings(pipeline.workspaces),
                tasks=self._tasks_of(pipeline, namespace),
                tree={},
            )
        namespace, _ = key = self._choose(self.tasks, "Tasks", name)
        task = self.tasks[key]
        return TaskRun(
            name=_generated(f"{task.name}-run-"),
            namespace=namespace,
            annotations={},
            params=(),
            task=task,
            embedded=False,
            workspaces=_made_bindings(task.spec.workspaces),
        )

    def _choose(self, keys: Collection[_Key], what: str, name: str | None) -> _Key:
        if not keys:
            raise InvalidDocument(f"{self.source}: nothing to run: expected a Task, TaskRun, Pipeline or PipelineRun")
        found = [key for key in keys if name is None or name in (key[1], "/".join(key))]
        if not found:
            raise InvalidDocument(f"{self.source}: no {name!r} among its {what}: {_listed(keys)}")
        if len(found) > 1:
            raise InvalidDocument(f"{self.source}: {len(found)} {what} ({_listed(found)}): say which one to run")
        return found[0]

    def _run(self, document: _Document) -> Run:
        spec, where = document.tree.get("spec") or {}, document.where.field("spec")
        if document.kind == "TaskRun":
            task, embedded = self._task_of(document, spec, where)
            return TaskRun(
                name=document.name,
                namespace=document.namespace,
                annotations=document.annotations,
                params=params_of(spec.get("params")),
                task=task,
                embedded=embedded,
                workspaces=_bindings(spec),
                timeout=spec.get("timeout"),
                retries=spec.get("retries") or 0,
            )
        pipeline = self._pipeline_of(document, spec, where)
        timeouts = {key: value for key, value in (spec.get("timeouts") or {}).items() if value is not None}
        if spec.get("timeout") is not None:
            if timeouts:
                raise where.field("timeout").error("and timeouts exclude each other")
            timeouts = {"pipeline": spec["timeout"]}
        return PipelineRun(
            name=document.name,
            namespace=document.namespace,
            annotations=document.annotations,
            params=params_of(spec.get("params")),
            pipeline=pipeline,
            workspaces=_bindings(spec),
            tasks=self._tasks_of(pipeline, document.namespace),
            tree=spec,
            timeouts=timeouts,
            task_run_specs={
                item["pipelineTaskName"]: TaskRunSpec(
                    item.get("timeout"), (item.get("metadata") or {}).get("annotations") or {}
                )
                for item in spec.get("taskRunSpecs") or ()
            },
        )

    def _task_of(self, document: _Document, spec: Mapping[str, Any], where: Where) -> tuple[Task, bool]:
        if (spec.get("taskRef") is None) == (spec.get("taskSpec") is None):
            raise where.error("needs one of taskRef and taskSpec")
        if spec.get("taskSpec") is not None:
            return Task("", TaskSpec.of(spec["taskSpec"])), True
        key = document.namespace, spec["taskRef"]["name"]
        return self._found(self.tasks, key, "Tasks", where.field("taskRef.name")), False

    def _pipeline_of(self, document: _Document, spec: Mapping[str, Any], where: Where) -> Pipeline:
        if (spec.get("pipelineRef") is None) == (spec.get("pipelineSpec") is None):
            raise where.error("needs one of pipelineRef and pipelineSpec")
        if spec.get("pipelineSpec") is not None:
            return Pipeline.of(document.name, spec["pipelineSpec"], {})
        key = document.namespace, spec["pipelineRef"]["name"]
        return self._found(self.pipelines, key, "Pipelines", where.field("pipelineRef.name"))

    def _tasks_of(self, pipeline: Pipeline, namespace: str) -> Mapping[str, Task]:
        """All Tasks of the file in a namespace; a reference without variables must be among them."""
        for task in pipeline.all_tasks:
            if task.task_ref is not None and "$(" not in task.task_ref:
                where = Where(f'Pipeline "{pipeline.name}"', f'task "{task.name}": taskRef.name')
                self._found(self.tasks, (namespace, task.task_ref), "Tasks", where)
        return {name: task for (its, name), task in self.tasks.items() if its == namespace}

    @staticmethod
    def _found(objects: Mapping[_Key, _T], key: _Key, kind: str, where: Where) -> _T:
        if key in objects:
            return objects[key]
        namespace, name = key
        elsewhere = [its for its, other in objects if other == name]
        if elsewhere:
            raise where.error(
                f"is {name!r}, which the file has in the namespace {elsewhere[0]!r}, while this is in {namespace!r}: "
                f"Tekton looks in no other; write metadata.namespace: {elsewhere[0]} here, or {namespace} there"
            )
        raise where.error(f"is {name!r}, which is not in the file; its {kind}: {_listed(objects)}")


def _listed(keys: Collection[_Key]) -> str:
    """Names, with their namespace where they are in several."""
    several = len({namespace for namespace, _ in keys}) > 1
    return ", ".join("/".join(key) if several else key[1] for key in keys) or "none"


@dataclass(frozen=True, slots=True)
class _Document:
    kind: str
    name: str
    namespace: str
    annotations: Mapping[str, str]
    tree: Mapping[str, Any]
    where: Where


def load(text: str | bytes, source: str = "the file") -> Documents:
    """Read all documents of a file, strictly. Raises InvalidDocument that names document, field and problem."""
    loaded = Documents(source=source)
    try:
        trees = strict_yaml.documents(text)
    except ValueError as error:
        raise InvalidDocument(f"{source}: {error}") from None
    for number, tree in enumerate(trees, 1):
        if tree is not None and not _is_claim(tree):
            _add(loaded, _document(tree, f"{source}: document {number}"))
    return loaded


def _is_claim(tree: Any) -> bool:
    """A claim needs nothing done: a workspace that names it is a directory."""
    return isinstance(tree, dict) and (tree.get("apiVersion"), tree.get("kind")) == ("v1", "PersistentVolumeClaim")


def _document(tree: Any, place: str) -> _Document:
    if not isinstance(tree, dict):
        raise InvalidDocument(f"{place}: expected a mapping, found {type(tree).__name__}")
    version, kind = tree.get("apiVersion"), tree.get("kind")
    if version not in _VERSIONS:
        raise InvalidDocument(f"{place}: apiVersion is {version!r}: expected {' or '.join(_VERSIONS)}")
    if not isinstance(kind, str) or kind not in schema.SPECS:
        raise InvalidDocument(f"{place}: kind {kind!r} is not supported by the local runner: {', '.join(schema.SPECS)}")
    meta = tree.get("metadata") or {}
    beta = version == "tekton.dev/v1beta1"
    name = (meta.get("name") or meta.get("generateName") or "") if isinstance(meta, dict) else ""
    where = Where(f'{kind} "{name}"', beta=beta)
    checks.fields(
        {
            "apiVersion": checks.text,
            "kind": checks.text,
            "metadata": schema.METADATA,
            "spec": schema.SPECS[kind],
            "status": checks.anything,
        },
        required=("metadata", "spec"),
    )(tree, where)
    if not meta.get("name") and meta.get("generateName"):
        name = _generated(meta["generateName"])
    if _NAME.fullmatch(name) is None:
        raise Where(f'{kind} "{name}"', "metadata.name", beta).error(
            f"is {name!r}: expected lower case letters, digits, '-' and '.'"
        )
    where = Where(f'{kind} "{name}"', beta=beta)
    namespace = meta.get("namespace") or "default"
    if _NAMESPACE.fullmatch(namespace) is None:
        raise where.field("metadata.namespace").error(f"is {namespace!r}: expected lower case letters, digits and '-'")
    return _Document(kind, name, namespace, meta.get("annotations") or {}, tree, where)


def _add(loaded: Documents, document: _Document) -> None:
    spec, where = document.tree["spec"], document.where.field("spec")
    key = document.namespace, document.name
    same: Mapping[str, Collection[_Key]] = {"Task": loaded.tasks, "Pipeline": loaded.pipelines}
    if key in same.get(document.kind, loaded.runs):
        raise document.where.error("appears more than once in the file")
    if document.kind == "Task":
        task = Task(document.name, TaskSpec.of(spec), document.annotations)
        check_task(task.spec, where, propagated=None)
        loaded.tasks[key] = task
    elif document.kind == "Pipeline":
        pipeline = Pipeline.of(document.name, spec, document.annotations)
        check_pipeline(pipeline, where, run_params=())
        loaded.pipelines[key] = pipeline
    else:
        given = [name for name, _ in params_of(spec.get("params"))]
        check_run_timeouts(spec, where)
        if spec.get("taskSpec") is not None:
            check_task(TaskSpec.of(spec["taskSpec"]), where.field("taskSpec"), propagated=given)
        if spec.get("pipelineSpec") is not None:
            pipeline = Pipeline.of(document.name, spec["pipelineSpec"], {})
            check_pipeline(pipeline, where.field("pipelineSpec"), run_params=given)
        loaded.runs[key] = document


def _bindings(spec: Mapping[str, Any]) -> tuple[WorkspaceBinding, ...]:
    return tuple(WorkspaceBinding.of(item) for item in spec.get("workspaces") or ())


def _made_bindings(declared: Sequence[WorkspaceDeclaration]) -> tuple[WorkspaceBinding, ...]:
    """A made run gives each workspace that is needed a directory that all its tasks share."""
    return tuple(WorkspaceBinding(item.name, f"workspace-{item.name}") for item in declared if not item.optional)


def _generated(prefix: str) -> str:
    return prefix[:58] + "".join(secrets.choice(_SUFFIX) for _ in range(5))
