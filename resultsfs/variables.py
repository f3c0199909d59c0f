"""Tekton's `$(…)` variables: finding them in text, and telling which of them name a task's result.

Rules from tektoncd/pipeline `pkg/apis/pipeline/v1/resultref.go` and `pkg/internal/resultref`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_VARIABLE = re.compile(
    r"\$\(([_a-zA-Z0-9.-]+(?:\[(?:[0-9]+|\*|'[^'()]*'|\"[^\"()]*\")\])*(?:\.[_a-zA-Z0-9.-]+)*(?:\[(?:[0-9]+|\*)\])?)\)"
)
_RESULT = re.compile(
    r"(?P<section>tasks|finally)\.(?P<task>[^.\[\]]+)\.results"
    r"(?:\.(?P<dotted>[^.\[\]]+)|\[(?P<quote>['\"])(?P<quoted>[^'\"]+)(?P=quote)\])"
    r"(?:\[(?P<index>[0-9]+|\*)\]|\.(?P<key>[^.\[\]]+))?"
)


@dataclass(frozen=True, slots=True)
class ResultUse:
    """One use of a task's result: the whole of it, its element `index`, or its property `key`.

    `star` says that it was written with `[*]`. `section` is `tasks`, or `finally` (in a pipeline's results).
    `quoted` says that the name stands in brackets and quotes, a form in which Tekton finds no dependency.
    """

    task: str
    result: str
    index: int | None = None
    key: str | None = None
    star: bool = False
    section: str = "tasks"
    quoted: bool = False


def names(text: str) -> Iterator[str]:
    """Yield what stands between `$(` and `)` for all variables in `text`, left to right."""
    if "$(" in text:
        for match in _VARIABLE.finditer(text):
            yield match[1]


def result_use(name: str) -> ResultUse | None:
    """The task result that a variable's name stands for; None when it stands for something else."""
    match = _RESULT.fullmatch(name)
    if match is None:
        return None
    index = match["index"]
    return ResultUse(
        task=match["task"],
        result=match["dotted"] or match["quoted"],
        index=int(index) if index not in (None, "*") else None,
        key=match["key"],
        star=index == "*",
        section=match["section"],
        quoted=match["quoted"] is not None,
    )


def strings(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of all strings in a JSON tree, keys excluded, in document order."""
    if isinstance(tree, str):
        yield path, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from strings(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from strings(value, f"{path}[{index}]")


def result_uses(tree: Any) -> Iterator[ResultUse]:
    """Yield all uses of task results in the strings of a JSON tree."""
    for _, text in strings(tree):
        for name in names(text):
            use = result_use(name)
            if use is not None:
                yield use


def param_of(name: str, known: Iterable[str]) -> str | None:
    """The one of the `known` params that a variable's name stands for, whole or in part; None for no such.

    Names of params may have dots, and so may what follows: the longest wins.
    """
    rest = name.removeprefix("inputs.").removeprefix("params")
    if not is_param(name):
        return None
    fitting = [
        param
        for param in known
        for form in (f".{param}", f'["{param}"]', f"['{param}']")
        if rest == form or rest.startswith((f"{form}[", f"{form}."))
    ]
    return max(fitting, key=len, default=None)


def is_param(name: str) -> bool:
    """Whether a variable's name stands for some param."""
    return name.startswith(("params.", "params[", "inputs.params."))
