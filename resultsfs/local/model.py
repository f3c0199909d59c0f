"""Tekton's objects as the local runner works with them, made from validated JSON trees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resultsfs.local.plan import ResultDeclaration
from resultsfs.record import ResultType, ResultValue
from resultsfs.reference import RESULTS_DIR
from resultsfs.typed import type_of
from resultsfs.variables import ResultUse, result_uses

Params = tuple[tuple[str, ResultValue], ...]


def value_of(tree: Any) -> ResultValue:
    """A param's value as Tekton reads it: what is no text, list or mapping of texts becomes its JSON as text."""
    if isinstance(tree, str):
        return tree
    if isinstance(tree, list) and all(isinstance(item, str) for item in tree):
        return list(tree)
    if isinstance(tree, dict) and all(isinstance(item, str) for item in tree.values()):
        return dict(tree)
    return "" if tree is None else json.dumps(tree, separators=(",", ":"), ensure_ascii=False)


def params_of(tree: Any) -> Params:
    """A list of params with values."""
    return tuple((param["name"], value_of(param.get("value"))) for param in tree or ())


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """A declared param; its type is inferred from properties or default where it is not given."""

    name: str
    type: ResultType
    default: ResultValue | None
    properties: tuple[str, ...]
    enum: tuple[str, ...]

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> ParamSpec:
        """From its tree."""
        default = value_of(tree["default"]) if tree.get("default") is not None else None
        if tree.get("type"):
            kind = ResultType(tree["type"])
        elif tree.get("properties") is not None:
            kind = ResultType.OBJECT
        else:
            kind = ResultType.STRING if default is None else type_of(default)
        return cls(tree["name"], kind, default, tuple(tree.get("properties") or ()), tuple(tree.get("enum") or ()))


@dataclass(frozen=True, slots=True)
class WorkspaceDeclaration:
    """A workspace that a task (or pipeline, without a path) asks for."""

    name: str
    optional: bool = False
    mount_path: str = ""
    read_only: bool = False

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> WorkspaceDeclaration:
        """From its tree."""
        name = tree["name"]
        return cls(
            name, bool(tree.get("optional")), tree.get("mountPath") or f"/workspace/{name}", bool(tree.get("readOnly"))
        )


@dataclass(frozen=True, slots=True)
class WorkspaceBinding:
    """What a run gives for a workspace. `claim` names a directory that the run shares; None is a fresh one."""

    name: str
    claim: str | None = None
    sub_path: str = ""
    claim_name: str = ""

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> WorkspaceBinding:
        """From its tree."""
        name = tree["name"]
        sub_path = tree.get("subPath") or ""
        if tree.get("persistentVolumeClaim") is not None:
            claim = tree["persistentVolumeClaim"]["claimName"]
            return cls(name, f"claim-{claim}", sub_path, claim)
        if tree.get("volumeClaimTemplate") is not None:
            return cls(name, f"workspace-{name}", sub_path, name)
        return cls(name, None, sub_path)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Steps and what they declare. `tree` is the spec as JSON, the form in which variables are replaced."""

    tree: Mapping[str, Any]
    params: tuple[ParamSpec, ...]
    results: tuple[ResultDeclaration, ...]
    workspaces: tuple[WorkspaceDeclaration, ...]

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> TaskSpec:
        """From its tree; fields that have no meaning for the steps are dropped."""
        keys = ("params", "results", "workspaces", "steps", "stepTemplate")
        return cls(
            tree={key: tree[key] for key in keys if tree.get(key) is not None},
            params=tuple(ParamSpec.of(param) for param in tree.get("params") or ()),
            results=tuple(_result(result) for result in tree.get("results") or ()),
            workspaces=tuple(WorkspaceDeclaration.of(item) for item in tree.get("workspaces") or ()),
        )

    def paths(self) -> dict[str, str]:
        """The variables that stand for Tekton's own paths: of results, of steps' exit codes, of credentials."""
        found = {"credentials.path": "/tekton/creds"}
        for result in self.results:
            for form in (f"results.{result.name}", f"results['{result.name}']", f'results["{result.name}"]'):
                found[f"{form}.path"] = f"{RESULTS_DIR}/{result.name}"
        for index, step in enumerate(self.tree.get("steps") or ()):
            container = f"step-{step.get('name') or f'unnamed-{index}'}"
            found[f"steps.{container}.exitCode.path"] = f"/tekton/steps/{container}/exitCode"
        return found


def _result(tree: Mapping[str, Any]) -> ResultDeclaration:
    properties = tuple(tree.get("properties") or ())
    kind = tree.get("type") or ("object" if tree.get("properties") is not None else "string")
    return ResultDeclaration(tree["name"], ResultType(kind), properties)


@dataclass(frozen=True, slots=True)
class Task:
    """A Task, or a run's embedded task (then without a name)."""

    name: str
    spec: TaskSpec
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class When:
    """One `when` expression."""

    input: str
    operator: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Include:
    """One explicit combination of a matrix."""

    name: str
    params: Params


@dataclass(frozen=True, slots=True)
class Matrix:
    """What a pipeline task is fanned out over."""

    params: Params = ()
    include: tuple[Include, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskWorkspace:
    """Which of the pipeline's workspaces a pipeline task's workspace is."""

    name: str
    workspace: str
    sub_path: str


@dataclass(frozen=True, slots=True)
class PipelineTask:
    """One task of a pipeline. `timeout` is a Go duration; `spec` is set when the task is embedded."""

    name: str
    task_ref: str | None
    spec: TaskSpec | None
    annotations: Mapping[str, str]
    params: Params
    matrix: Matrix | None
    when: tuple[When, ...]
    run_after: tuple[str, ...]
    retries: int
    timeout: str | None
    on_error: str
    workspaces: tuple[TaskWorkspace, ...]
    display_name: str

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> PipelineTask:
        """From its tree."""
        spec = tree.get("taskSpec")
        return cls(
            name=tree["name"],
            task_ref=tree["taskRef"]["name"] if tree.get("taskRef") is not None else None,
            spec=TaskSpec.of(spec) if spec is not None else None,
            annotations=((spec or {}).get("metadata") or {}).get("annotations") or {},
            params=params_of(tree.get("params")),
            matrix=_matrix(tree.get("matrix")),
            when=tuple(
                When(item.get("input") or "", item["operator"], tuple(item["values"]))
                for item in tree.get("when") or ()
            ),
            run_after=tuple(tree.get("runAfter") or ()),
            retries=tree.get("retries") or 0,
            timeout=tree.get("timeout"),
            on_error=tree.get("onError") or "stopAndFail",
            workspaces=tuple(
                TaskWorkspace(item["name"], item.get("workspace") or item["name"], item.get("subPath") or "")
                for item in tree.get("workspaces") or ()
            ),
            display_name=tree.get("displayName") or "",
        )

    def result_uses(self) -> tuple[ResultUse, ...]:
        """The results that must be there before this task can start; they order it, as in Tekton."""
        matrix = self.matrix or Matrix()
        values: list[Any] = [value for _, value in (*self.params, *matrix.params)]
        values += [value for include in matrix.include for _, value in include.params]
        values += [[item.input, *item.values] for item in self.when]
        if self.spec is not None:
            values.append(self.spec.tree.get("steps"))
        return tuple(dict.fromkeys(result_uses(values)))

    @property
    def ignores_failure(self) -> bool:
        """Whether the pipeline goes on when this task fails."""
        return self.on_error == "continue"


def _matrix(tree: Any) -> Matrix | None:
    if not tree or not (tree.get("params") or tree.get("include")):
        return None
    include = tuple(
        Include(item.get("name") or "", params_of(item.get("params"))) for item in tree.get("include") or ()
    )
    return Matrix(params_of(tree.get("params")), include)


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """A pipeline's result, composed of tasks' results."""

    name: str
    value: ResultValue


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A Pipeline, or a run's embedded one (then named after the run). `tree` is its spec."""

    name: str
    tree: Mapping[str, Any]
    annotations: Mapping[str, str]
    params: tuple[ParamSpec, ...]
    tasks: tuple[PipelineTask, ...]
    finally_: tuple[PipelineTask, ...]
    results: tuple[PipelineResult, ...]
    workspaces: tuple[WorkspaceDeclaration, ...]

    @classmethod
    def of(cls, name: str, tree: Mapping[str, Any], annotations: Mapping[str, str]) -> Pipeline:
        """From its spec's tree."""
        return cls(
            name=name,
            tree=tree,
            annotations=annotations,
            params=tuple(ParamSpec.of(param) for param in tree.get("params") or ()),
            tasks=tuple(PipelineTask.of(task) for task in tree.get("tasks") or ()),
            finally_=tuple(PipelineTask.of(task) for task in tree.get("finally") or ()),
            results=tuple(PipelineResult(item["name"], value_of(item["value"])) for item in tree.get("results") or ()),
            workspaces=tuple(WorkspaceDeclaration.of(item) for item in tree.get("workspaces") or ()),
        )

    @property
    def all_tasks(self) -> tuple[PipelineTask, ...]:
        """Tasks and finally tasks."""
        return self.tasks + self.finally_


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A TaskRun to do: of `task`, which is embedded when `embedded`."""

    name: str
    namespace: str
    annotations: Mapping[str, str]
    params: Params
    task: Task
    embedded: bool
    workspaces: tuple[WorkspaceBinding, ...]
    timeout: str | None = None
    retries: int = 0


@dataclass(frozen=True, slots=True)
class TaskRunSpec:
    """What a PipelineRun says of the TaskRuns of one of its tasks."""

    timeout: str | None
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """A PipelineRun to do. `tasks` are the Tasks that its file has, by name; timeouts are Go durations."""

    name: str
    namespace: str
    annotations: Mapping[str, str]
    params: Params
    pipeline: Pipeline
    workspaces: tuple[WorkspaceBinding, ...]
    tasks: Mapping[str, Task]
    tree: Mapping[str, Any]
    timeouts: Mapping[str, str] = field(default_factory=dict)
    task_run_specs: Mapping[str, TaskRunSpec] = field(default_factory=dict)


Run = TaskRun | PipelineRun
