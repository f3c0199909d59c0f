"""Tekton's variable substitution: one pass, no escaping, strings in place, arrays and objects where whole.

Rules from tektoncd/pipeline `pkg/substitution/replacements.go` and `pkg/apis/pipeline/v1/param_types.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from resultsfs.record import ResultValue

_T = TypeVar("_T")


@dataclass(slots=True)
class Replacements:
    """What variables stand for, keyed by what is between `$(` and `)` (arrays and objects without `[*]`)."""

    strings: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, list[str]] = field(default_factory=dict)
    objects: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of_params(cls, params: Iterable[tuple[str, ResultValue]], *, in_task: bool = False) -> Replacements:
        """`params.x`, `params["x"]`, `params['x']` and their parts; in a task `inputs.params.x` as well."""
        made = cls()
        for name, value in params:
            keys = [f"params.{name}", f'params["{name}"]', f"params['{name}']"]
            if in_task:
                keys.append(f"inputs.params.{name}")
            for key in keys:
                made.add(key, value)
        return made

    @classmethod
    def of_results(cls, results: Iterable[tuple[str, str, ResultValue]]) -> Replacements:
        """`tasks.<task>.results.<result>` and its parts, from (task, result, value)."""
        made = cls()
        for task, result, value in results:
            made.add(f"tasks.{task}.results.{result}", value)
        return made

    def add(self, key: str, value: ResultValue) -> None:
        """Let `key` stand for a value, `key[i]` for an array's elements, `key.name` for an object's properties."""
        if isinstance(value, str):
            self.strings[key] = value
        elif isinstance(value, dict):
            self.objects[key] = value
            for name, text in value.items():
                self.strings[f"{key}.{name}"] = text
        else:
            self.arrays[key] = value
            for index, text in enumerate(value):
                self.strings[f"{key}[{index}]"] = text

    def without_params(self, names: Iterable[str]) -> Replacements:
        """These without the params of those names: an inner scope gives them a meaning of its own."""
        prefixes = tuple(
            form for name in names for form in (f"params.{name}", f'params["{name}"]', f"params['{name}']")
        )

        def outside(key: str) -> bool:
            return not any(key == prefix or key.startswith((f"{prefix}[", f"{prefix}.")) for prefix in prefixes)

        return Replacements(
            {key: value for key, value in self.strings.items() if outside(key)},
            {key: value for key, value in self.arrays.items() if outside(key)},
            {key: value for key, value in self.objects.items() if outside(key)},
        )

    def text(self, text: str) -> str:
        """`text` with all variables that stand for a string replaced in one pass; others are left."""
        if "$(" not in text:
            return text
        parts: list[str] = []
        done = 0
        at = text.find("$(")
        while at >= 0:
            end = text.find(")", at)
            if end < 0:
                break
            value = self.strings.get(text[at + 2 : end])
            if value is None:
                at = text.find("$(", at + 2)
                continue
            parts += (text[done:at], value)
            done = end + 1
            at = text.find("$(", done)
        return "".join((*parts, text[done:]))

    def items(self, items: Iterable[str]) -> list[str]:
        """A list of texts; one that is exactly a whole array becomes its elements."""
        replaced: list[str] = []
        for item in items:
            array = self._whole(item, self.arrays)
            replaced.extend([self.text(item)] if array is None else array)
        return replaced

    def value(self, value: ResultValue) -> ResultValue:
        """A param's value; a string that is exactly a whole array or object takes its type."""
        if isinstance(value, list):
            return self.items(value)
        if isinstance(value, dict):
            return {key: self.text(text) for key, text in value.items()}
        array = self._whole(value, self.arrays)
        if array is not None:
            return list(array)
        properties = self._whole(value, self.objects)
        if properties is not None:
            return dict(properties)
        return self.text(value)

    def params(self, params: Iterable[tuple[str, ResultValue]]) -> tuple[tuple[str, ResultValue], ...]:
        """Params with their values replaced."""
        return tuple((name, self.value(value)) for name, value in params)

    def tree(self, tree: Any) -> Any:
        """A JSON tree with all its strings replaced; lists of strings expand whole arrays."""
        if isinstance(tree, str):
            return self.text(tree)
        if isinstance(tree, dict):
            return {key: self.tree(value) for key, value in tree.items()}
        if isinstance(tree, list):
            if all(isinstance(item, str) for item in tree):
                return self.items(tree)
            return [self.tree(item) for item in tree]
        return tree

    @staticmethod
    def _whole(text: str, values: Mapping[str, _T]) -> _T | None:
        if not (text.startswith("$(") and text.endswith(")")):
            return None
        return values.get(text[2:-1].removesuffix("[*]"))


def expand_environment(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` by the container's environment, `$$` as one `$`, as the kubelet does for command, args and env.

    From Kubernetes' `third_party/forked/golang/expansion`: what is not known stays as it is.
    """
    parts: list[str] = []
    at = 0
    while (found := text.find("$", at)) >= 0 and found + 1 < len(text):
        parts.append(text[at:found])
        following = text[found + 1]
        end = text.find(")", found + 2) if following == "(" else -1
        if following == "$":
            parts.append("$")
            at = found + 2
        elif end >= 0:
            name = text[found + 2 : end]
            parts.append(environment.get(name, f"$({name})"))
            at = end + 1
        elif following == "(":
            parts.append("$(")
            at = found + 2
        else:
            parts.append("$" + following)
            at = found + 2
    return "".join((*parts, text[at:]))
