"""A matrix: one task fanned out over combinations of params.

Rules from tektoncd/pipeline `pkg/apis/pipeline/v1/matrix_types.go` and `docs/matrix.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from resultsfs.local.model import Include, Matrix, Params
from resultsfs.local.substitution import Replacements

MOST = 256
"""Combinations that Tekton allows by default (`default-max-matrix-combinations-count`)."""
_LONGEST_NAME = 63


def replaced(matrix: Matrix, replacements: Replacements) -> Matrix:
    """The matrix with variables replaced: whole arrays in `params`, strings only in `include`."""
    only_strings = Replacements(replacements.strings)
    return Matrix(
        replacements.params(matrix.params),
        tuple(Include(item.name, only_strings.params(item.params)) for item in matrix.include),
    )


def is_empty(matrix: Matrix) -> bool:
    """Whether a param has no values: then the task is skipped."""
    return any(value == [] for _, value in matrix.params)


def type_problem(matrix: Matrix, task: str) -> str | None:
    """Why the values cannot be fanned out, in Tekton's words; None when they can."""
    for allowed, expected, params in (
        (str, "string", [param for include in matrix.include for param in include.params]),
        (list, "array", list(matrix.params)),
    ):
        for name, value in params:
            if not isinstance(value, allowed):
                found = "string" if isinstance(value, str) else "object" if isinstance(value, dict) else "array"
                return (
                    f'parameters of type {expected} only are allowed, but param "{name}" has type "{found}" '
                    f'in pipelineTask "{task}"'
                )
    return None


def combinations(matrix: Matrix) -> list[dict[str, str]]:
    """All combinations, in the order in which Tekton numbers their TaskRuns.

    An `include` completes the combinations that it agrees with, and is one more when it agrees with none.
    """
    included = [{name: str(value) for name, value in item.params} for item in matrix.include]
    if not matrix.params:
        return included
    found: list[dict[str, str]] = [{}]
    for name, values in matrix.params:
        found = [{**before, name: value} for value in values for before in found]
    for combination in found:
        for include in included:
            if all(combination.get(name, value) == value for name, value in include.items()):
                combination.update(include)
    for include in included:
        if include and not any(
            combination.get(name) == value for combination in found for name, value in include.items()
        ):
            found.append(include)
    return found


def as_params(combination: dict[str, str]) -> Params:
    """A combination as params, in the order of their names."""
    return tuple(sorted(combination.items()))


def run_names(run: str, task: str, count: int) -> list[str]:
    """Names of a task's TaskRuns; numbered when there are several."""
    if count == 1:
        return [child_name(run, f"-{task}")]
    made = []
    for index in range(count):
        name = child_name(run, f"-{task}-{index}")
        if not name.endswith(f"-{index}"):
            name = f"{child_name(run, f'-{task}')[: _LONGEST_NAME - len(f'-{count}')]}-{index}"
        made.append(name)
    return made


def child_name(parent: str, suffix: str) -> str:
    """A child's name of at most 63 characters, the middle replaced by a hash if need be (knative `kmeta.ChildName`)."""
    if len(parent) <= _LONGEST_NAME - len(suffix):
        return parent + suffix
    head = _LONGEST_NAME - 32
    if head - len(suffix) <= 0:
        return (parent[:head] + _md5(parent + suffix)).rstrip("-.")
    return parent[: head - len(suffix)] + _md5(parent) + suffix


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def aggregated(values: Iterable[tuple[str, object]]) -> list[str]:
    """One result of all TaskRuns of a matrix, from (TaskRun name, value): strings, in the order of the names.

    The order is that of text, as in Tekton: `-10` stands before `-2`.
    """
    return [value for _, value in sorted(values, key=lambda item: item[0]) if isinstance(value, str)]
