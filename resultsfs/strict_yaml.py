"""YAML as the API server reads it: no dates, no base 60, no key twice."""

from __future__ import annotations

import re
from typing import Any

import yaml

_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$"
)


class _Loader(yaml.SafeLoader):
    # CSafeLoader would be faster, but it cannot be told to refuse a key that appears twice

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key is no text", key)
            if key.value in seen:
                raise _problem(f"the key {key.value!r} appears more than once", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _problem(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if not pair[0].endswith((":timestamp", ":int", ":float"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def documents(text: str | bytes) -> list[Any]:
    """All documents of a text, as JSON trees; None for an empty one. Raises ValueError that names what is wrong, where."""
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except RecursionError:
        raise ValueError("nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"not YAML: {error}") from None
