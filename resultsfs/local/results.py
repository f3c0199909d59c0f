"""A pipeline's results, composed of what its tasks gave.

Rules from tektoncd/pipeline `ApplyTaskResultsToPipelineResults` (`pkg/reconciler/pipelinerun/resources/apply.go`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from resultsfs.local.model import PipelineResult
from resultsfs.local.plan import ResultOutcome
from resultsfs.local.state import Node, State
from resultsfs.local.substitution import Replacements
from resultsfs.record import ResultValue
from resultsfs.reference import Reference, find
from resultsfs.typed import type_of
from resultsfs.variables import ResultUse, names, result_uses, strings

_WHOLE = re.compile(r"\$\([^()]*\)")


def compose(
    results: Iterable[PipelineResult], state: State, size: Callable[[Reference], int | None]
) -> tuple[tuple[ResultOutcome, ...], list[str]]:
    """The results that can be had, and the names of those that should be there and are not.

    A result of a task that did not succeed is left out without a word, as in Tekton. `size` tells how large the
    content of a reference is (an element or property of a skeleton), None where the text is taken as it is.
    """
    composed: list[ResultOutcome] = []
    invalid: list[str] = []
    for result in results:
        uses = list(result_uses(result.value))
        variables = [name for _, text in strings(result.value) for name in names(text)]
        problems = [_problem(state.nodes[use.task], use) for use in uses]
        if len(variables) != len(uses) or "invalid" in problems:
            invalid.append(result.name)
        elif not uses:
            continue
        elif not any(problems):
            composed.append(_composed(result, uses, state, size))
    return tuple(composed), invalid


def _problem(node: Node, use: ResultUse) -> str | None:
    value = node.value(use.result) if node.finished else None
    if value is None:
        return "invalid" if node.succeeded else "absent"
    if isinstance(value, list) and use.index is not None and use.index >= len(value):
        return "invalid"
    if use.key is not None and not (isinstance(value, dict) and use.key in value):
        return "invalid"
    return None


def _composed(
    result: PipelineResult, uses: list[ResultUse], state: State, size: Callable[[Reference], int | None]
) -> ResultOutcome:
    replacements = Replacements()
    for use in uses:
        value = state.nodes[use.task].value(use.result)
        assert value is not None
        replacements.add(f"{use.section}.{use.task}.results.{use.result}", value)
    value = replacements.value(result.value)
    if isinstance(result.value, str) and _WHOLE.fullmatch(result.value):
        use = uses[0]
        node = state.nodes[use.task]
        if use.index is None and use.key is None and node.task.matrix is None:
            whole = node.result(use.result)
            if whole is not None and whole.value == value:
                return replace(whole, name=result.name)
    reference = Reference.match(value) if isinstance(value, str) else None
    measured = None if reference is None else size(reference)
    if reference is not None and measured is not None:
        return replace(literal(result.name, value), size=measured, sha256=reference.sha256)
    return literal(result.name, value)


def literal(name: str, value: ResultValue) -> ResultOutcome:
    """A result that is its own content: text, or the JSON of an array or object."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    content = text.encode()
    return ResultOutcome(
        name=name,
        type=type_of(value),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        spilled=any(True for _, part in strings(value) for _ in find(part)),
        value=value,
    )
