"""values.yaml and its schema say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.support.chart import CHART, ROOT

VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

Tree = dict[str, Any]


def _objects(schema: Any, path: str = "") -> Iterator[tuple[str, Tree]]:
    """Every schema of an object whose properties are fixed."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield path, schema
        for key, value in schema.items():
            yield from _objects(value, f"{path}/{key}")


def _differences(values: Tree, schema: Tree, path: str = "") -> Iterator[str]:
    for key in values.keys() ^ schema["properties"].keys():
        yield f"{path}/{key}"
    for key, value in values.items():
        inner = schema["properties"].get(key, {})
        if isinstance(value, dict) and inner.get("type") == "object" and inner.get("properties") and value:
            yield from _differences(value, inner, f"{path}/{key}")


def test_unknown_keys_are_refused_everywhere() -> None:
    """No object of the schema takes properties that it does not name."""
    open_ones = [path for path, schema in _objects(SCHEMA) if schema.get("additionalProperties") is not False]
    assert open_ones == []


def test_every_value_has_its_default() -> None:
    """What the schema knows is in values.yaml with a default, and the other way round."""
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"]}}
    del schema["properties"]["global"]  # Helm's own
    assert list(_differences(VALUES, schema)) == []


def test_every_value_is_explained() -> None:
    """Each top-level value has a comment above it or beside one of its keys."""
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    bare = []
    for key in VALUES:
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        inside = lines[at : at + 3]
        if not lines[at - 1].startswith("#") and not any("#" in line for line in inside):
            bare.append(key)
    assert bare == []


def test_the_image_that_readme_builds_is_the_chart_s() -> None:
    """The tag of README.md's build and push is the chart's appVersion, which its install line leaves as it is."""
    image = f"registry.example.com/resultsfs:{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"docker build --file deploy/Dockerfile --tag {image} .\ndocker push {image}\n" in readme
    assert f"--set image.repository={image.rpartition(':')[0]} " in readme
