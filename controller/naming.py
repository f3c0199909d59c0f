"""What results of a PipelineRun are called: NAME its own, TASK/NAME or TASKRUN/NAME those of the runs that it made.

The same rule as for runs of this machine (`resultsfs.cli.sources`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from controller.kube.resources import CUSTOM_RUNS, PIPELINE_RUNS, TASK_RUNS, Resource, Tree
from resultsfs.errors import InvalidKey

KINDS: dict[str, Resource] = {resource.plural: resource for resource in (TASK_RUNS, PIPELINE_RUNS, CUSTOM_RUNS)}
"""Runs that have results, by what they are called in paths."""
OWN = "(pipeline)"
"""The task of a PipelineRun's own results."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Made:
    """A run that has results: its kind as in paths, its name, and the pipeline's task that it is for."""

    kind: str
    name: str
    task: str


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """One result of a run, and what is known of it."""

    run: Made
    name: str
    what: T


def made_by(run: Tree) -> list[Made]:
    """The runs with results that a PipelineRun has made, as its status names them; one of them for each task, of a
    matrix several."""
    plurals = {resource.kind: plural for plural, resource in KINDS.items()}
    return [
        Made(plurals[child["kind"]], str(child["name"]), str(child.get("pipelineTaskName") or child["name"]))
        for child in (run.get("status") or {}).get("childReferences") or []
        if child.get("kind") in plurals
    ]


def may_have(made: Iterable[Made], wanted: str) -> list[Made]:
    """Those that the name of a result can mean."""
    task, slash, _ = wanted.rpartition("/")
    return [run for run in made if not slash or task in (run.task, run.name)]


def choose(found: Sequence[Found[T]], own: str, wanted: str, label: str) -> Found[T]:
    """The result of that name; the run's own (`own` is its name) come first. Raises InvalidKey where none is, or several."""
    mine = [one for one in found if one.run.name == own and one.name == wanted]
    others = [
        one
        for one in found
        if wanted in (f"{one.run.task}/{one.name}", f"{one.run.name}/{one.name}")
        or (one.name == wanted and one.run.name != own)
    ]
    chosen = mine or others
    names = _names(found, own)
    if not chosen:
        raise InvalidKey(f"{label} has no result {wanted!r}; there are: {', '.join(names) or 'none'}")
    if len(chosen) > 1:
        choices = ", ".join(_names(chosen, own, within=found))
        raise InvalidKey(f"{label} has several results {wanted!r}: say which of {choices}")
    return chosen[0]


def _names(found: Sequence[Found[T]], own: str, within: Sequence[Found[T]] | None = None) -> list[str]:
    runs = {(one.run.task, one.run.name) for one in within or found}
    several = Counter(task for task, _ in runs)
    return [
        one.name if one.run.name == own else f"{one.run.name if several[one.run.task] > 1 else one.run.task}/{one.name}"
        for one in found
    ]
