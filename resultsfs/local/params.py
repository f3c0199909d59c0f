"""Params of a run: what `-p` gives, what must be there, defaults that refer to one another.

Messages follow tektoncd/pipeline `pkg/reconciler/taskrun/validate_taskrun.go` and `…/resources/validate_params.go`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from resultsfs.errors import InvalidDocument
from resultsfs.local.model import Params, ParamSpec
from resultsfs.local.substitution import Replacements
from resultsfs.record import ResultType, ResultValue
from resultsfs.typed import type_of
from resultsfs.variables import is_param, names, param_of, strings

_MAX_DEPTH = 10
"""How deep defaults may refer to one another, as in Tekton."""


def overridden(specs: Sequence[ParamSpec], given: Params, options: Sequence[tuple[str, str]]) -> Params:
    """`given` with what `-p name=value` says instead, read by the param's declared type.

    An array is one JSON array, or the option repeated for each element; an object is one JSON object, or the
    option repeated with `key=value`. Raises InvalidDocument for unknown names and values of another type.
    """
    types = {name: type_of(value) for name, value in given} | {spec.name: spec.type for spec in specs}
    wanted: dict[str, list[str]] = {}
    for name, text in options:
        if name not in types:
            raise InvalidDocument(f"-p {name}: there is no such param; known are {', '.join(sorted(types)) or 'none'}")
        wanted.setdefault(name, []).append(text)
    values = {name: _read(name, types[name], texts) for name, texts in wanted.items()}
    kept = tuple((name, values.pop(name, value)) for name, value in given)
    return kept + tuple(values.items())


def _read(name: str, kind: ResultType, texts: list[str]) -> ResultValue:
    if kind is ResultType.STRING:
        if len(texts) > 1:
            raise InvalidDocument(f"-p {name}: given {len(texts)} times, but it is a string")
        return texts[0]
    opening = "[" if kind is ResultType.ARRAY else "{"
    if len(texts) == 1 and texts[0].lstrip().startswith(opening):
        try:
            value = json.loads(texts[0])
        except ValueError as error:
            raise InvalidDocument(f"-p {name}: {texts[0]!r} is not JSON: {error}") from None
        items = list(value.values()) if isinstance(value, dict) else value
        if not all(isinstance(item, str) for item in items):
            raise InvalidDocument(f"-p {name}: {texts[0]!r}: expected strings only")
        return value  # type: ignore[no-any-return]  # a list or a dict by its first character
    if kind is ResultType.ARRAY:
        return texts
    pairs = [text.partition("=") for text in texts]
    if not all(middle for _, middle, _ in pairs):
        raise InvalidDocument(f"-p {name}: it is an object: expected a JSON object, or -p {name}=key=value repeated")
    return {key: value for key, _, value in pairs}


def missing(specs: Iterable[ParamSpec], given: Iterable[str]) -> list[str]:
    """Params without a value and without a default."""
    there = set(given)
    return [spec.name for spec in specs if spec.default is None and spec.name not in there]


def wrong_types(specs: Iterable[ParamSpec], params: Params, *, unresolved: bool = False) -> list[str]:
    """Params whose value has another type than declared; `unresolved` variables may still become any type."""
    types = {spec.name: spec.type for spec in specs}
    return [
        name
        for name, value in params
        if name in types
        and type_of(value) is not types[name]
        and not (unresolved and isinstance(value, str) and any(True for _ in names(value)))
    ]


def missing_keys(specs: Iterable[ParamSpec], params: Params) -> dict[str, list[str]]:
    """Declared properties that neither the value nor the default of an object has."""
    values = dict(params)
    lacking: dict[str, list[str]] = {}
    for spec in specs:
        value = values.get(spec.name, {})
        if spec.type is not ResultType.OBJECT or not isinstance(value, dict):
            continue
        there = set(value) | set(spec.default if isinstance(spec.default, dict) else ())
        keys = [key for key in spec.properties if key not in there]
        if keys and (there or spec.name in values):
            lacking[spec.name] = keys
    return lacking


def task_problem(specs: Sequence[ParamSpec], params: Params, matrix: Iterable[str] = (), **how: bool) -> str | None:
    """Why a task cannot take these params, in Tekton's words; None when it can. `matrix`: names fanned out."""
    matrix = list(matrix)
    if absent := missing(specs, [name for name, _ in params] + matrix):
        return f"missing values for these params which have no default values: {_list(absent)}"
    types = {spec.name: spec.type for spec in specs}
    wrong = wrong_types(specs, params, **how)
    wrong += [name for name in matrix if types.get(name, ResultType.STRING) is not ResultType.STRING]
    if wrong:
        return f"param types don't match the user-specified type: {_list(wrong)}"
    if keys := missing_keys(specs, params):
        return f"missing keys for these params which are required in ParamSpec's properties {_map(keys)}"
    return None


def enum_problem(specs: Iterable[ParamSpec], params: Params) -> str | None:
    """Why a value is not among those that its param allows; None when all are."""
    enums = {spec.name: spec.enum for spec in specs if spec.enum}
    for name, value in params:
        if isinstance(value, str) and value and name in enums and value not in enums[name]:
            return f"param `{name}` value: {value} is not in the enum list"
    return None


def effective(specs: Sequence[ParamSpec], given: Params) -> Params:
    """All params with their values: given ones, then defaults, in which other params are replaced.

    An object takes the properties that it lacks from its default. Raises ValueError for defaults that refer
    to one another in a circle, or to a param without a value.
    """
    values = dict(given)
    defaults = {spec.name: spec.default for spec in specs if spec.default is not None}
    for name, default in defaults.items():
        value = values.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            values[name] = {**default, **value}
    declared = {name: default for name, default in defaults.items() if name not in values}
    for name in declared:
        _settle(name, declared, values, ())
    return tuple(values.items())


def _settle(
    name: str, defaults: Mapping[str, ResultValue], values: dict[str, ResultValue], path: tuple[str, ...]
) -> None:
    if name in values:
        return
    if name in path:
        raise ValueError(f'parameter resolution failed: circular dependency detected in param "{name}"')
    if len(path) > _MAX_DEPTH:
        raise ValueError(
            f'parameter resolution failed: maximum recursion depth ({_MAX_DEPTH}) exceeded for param "{name}"'
        )
    default = defaults[name]
    texts = [default] if isinstance(default, str) else list(default.values() if isinstance(default, dict) else default)
    for text in texts:
        for variable in names(text):
            other = param_of(variable, {*values, *defaults})
            if other is not None:
                _settle(other, defaults, values, (*path, name))
            elif is_param(variable):
                raise ValueError(f'parameter resolution failed: param "{name}" references undefined param "{variable}"')
    values[name] = Replacements.of_params(values.items(), in_task=True).value(default)


def out_of_range(tree: object, replacements: Replacements) -> list[str]:
    """Uses `$(params.x[i])` in a tree that no element answers to."""
    return [
        f"$({name})"
        for _, text in strings(tree)
        for name in names(text)
        if is_param(name)
        and name.endswith("]")
        and not name.endswith(("[*]", "']", '"]'))
        and name not in replacements.strings
        and name[: name.rindex("[")] in replacements.arrays
    ]


def _list(items: Iterable[str]) -> str:
    return f"[{' '.join(items)}]"


def _map(items: Mapping[str, Iterable[str]]) -> str:
    return f"map[{' '.join(f'{name}:{_list(keys)}' for name, keys in sorted(items.items()))}]"
