"""`when`: whether a task runs, by comparing a text with a list.

Rules from tektoncd/pipeline `pkg/apis/pipeline/v1/when_types.go`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from resultsfs.local.model import When
from resultsfs.local.substitution import Replacements


def replaced(conditions: Iterable[When], replacements: Replacements) -> tuple[When, ...]:
    """The expressions with variables replaced; a whole array is its elements in `values`, its JSON in `input`."""
    return tuple(
        When(_input(item.input, replacements), item.operator, tuple(replacements.items(item.values)))
        for item in conditions
    )


def _input(text: str, replacements: Replacements) -> str:
    value = replacements.value(text)
    return (
        json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        if isinstance(value, list)
        else replacements.text(text)
    )


def allow(conditions: Iterable[When]) -> bool:
    """Whether all expressions hold."""
    return all((item.input in item.values) == (item.operator == "in") for item in conditions)
