"""Workspaces as directories: which directory a task's workspace is, and what its variables stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from resultsfs.local.model import PipelineTask, TaskSpec, WorkspaceBinding, WorkspaceDeclaration
from resultsfs.local.outcome import RunFailed
from resultsfs.local.substitution import Replacements
from resultsfs.variables import names, strings


@dataclass(frozen=True, slots=True)
class Room:
    """The directory below which a run's workspaces lie. Whoever made it removes it."""

    path: Path

    def directory(self, binding: WorkspaceBinding, task_run: str) -> Path:
        """The directory of a binding, made if need be: a claim's is shared by the run, another is the TaskRun's."""
        if binding.claim is not None:
            base = self.path / "shared" / quote(binding.claim, safe="")
        else:
            base = self.path / "own" / task_run / f"workspace-{quote(binding.name, safe='')}"
        path = base.joinpath(*_parts(binding))
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        return path


def _parts(binding: WorkspaceBinding) -> tuple[str, ...]:
    path = PurePosixPath(binding.sub_path)
    if path.is_absolute() or ".." in path.parts:
        raise RunFailed(
            "TaskRunValidationFailed",
            f'workspace "{binding.name}": subPath is {binding.sub_path!r}: expected a path inside the workspace',
        )
    return path.parts


def replaced(bindings: Iterable[WorkspaceBinding], replacements: Replacements) -> tuple[WorkspaceBinding, ...]:
    """Bindings with variables replaced where Tekton replaces them."""
    return tuple(
        replace(
            item,
            claim=None if item.claim is None else replacements.text(item.claim),
            claim_name=replacements.text(item.claim_name),
            sub_path=replacements.text(item.sub_path),
        )
        for item in bindings
    )


def of_pipeline_task(
    task: PipelineTask, bindings: Sequence[WorkspaceBinding], optional: Iterable[str]
) -> tuple[WorkspaceBinding, ...]:
    """What a pipeline task's TaskRuns get of the run's bindings.

    An embedded task gets all others under their own names too: they are propagated. Raises RunFailed for a
    workspace that the run does not bind, unless the pipeline calls it `optional`.
    """
    by_name = {item.name: item for item in bindings}
    made: dict[str, WorkspaceBinding] = {} if task.spec is None else dict(by_name)
    for wanted in task.workspaces:
        binding = by_name.get(wanted.workspace)
        if binding is None:
            made.pop(wanted.name, None)
            if wanted.workspace in set(optional):
                continue
            raise RunFailed(
                "CreateRunFailed",
                f'expected workspace "{wanted.workspace}" to be provided by pipelinerun for pipeline task "{task.name}"',
            )
        sub_path = "/".join(part for part in (binding.sub_path, wanted.sub_path) if part)
        made[wanted.name] = replace(binding, name=wanted.name, sub_path=sub_path)
    return tuple(made.values())


def declared(
    spec: TaskSpec, bindings: Iterable[WorkspaceBinding], *, embedded: bool
) -> tuple[WorkspaceDeclaration, ...]:
    """What a task declares, and for an embedded one what it uses of the propagated bindings.

    Raises RunFailed for a workspace that is needed or used and not bound.
    """
    bound = {item.name for item in bindings}
    found = {item.name: item for item in spec.workspaces}
    for item in found.values():
        if not item.optional and item.name not in bound:
            raise RunFailed(
                "TaskRunValidationFailed", f'declared workspace "{item.name}" is required but has not been bound'
            )
    for _, text in strings(spec.tree.get("steps")):
        for name in names(text):
            if not name.startswith("workspaces."):
                continue
            workspace = name.split(".")[1]
            if workspace in found:
                continue
            if not embedded or workspace not in bound:
                raise RunFailed(
                    "TaskRunValidationFailed", f'$({name}): no workspace "{workspace}" is declared or bound'
                )
            found[workspace] = WorkspaceDeclaration.of({"name": workspace})
    return tuple(found.values())


def with_path(declaration: WorkspaceDeclaration, path: str) -> WorkspaceDeclaration:
    """The declaration with another mount path: variables are replaced there too."""
    return replace(declaration, mount_path=path)


def variables(declarations: Iterable[WorkspaceDeclaration], bindings: Mapping[str, WorkspaceBinding]) -> Replacements:
    """`workspaces.<name>.path`, `.bound`, `.claim` and `.volume`."""
    made = Replacements()
    for item in declarations:
        binding = bindings.get(item.name)
        prefix = f"workspaces.{item.name}"
        made.strings[f"{prefix}.bound"] = "false" if binding is None else "true"
        made.strings[f"{prefix}.path"] = "" if binding is None else item.mount_path
        made.strings[f"{prefix}.claim"] = "" if binding is None else binding.claim_name
        made.strings[f"{prefix}.volume"] = "" if binding is None else f"ws-{item.name}"
    return made
