"""Writes the chart's schema of `settings` from the settings' dataclass; with --check only says whether it is up to date."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from resultsfs.settings import Settings, key_of

PATH = Path(__file__).parent.parent / "deploy" / "chart" / "values.schema.json"

_TYPES: dict[str, dict[str, Any]] = {
    "bytes": {"type": ["string", "integer"], "pattern": r"^ *[0-9]+(\.[0-9]+)? *(B|[kKMGT]i?B?)? *$", "minimum": 0},
    "seconds": {"type": "string", "pattern": r"^ *(0|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+) *$"},
    "count": {"type": ["string", "integer"], "pattern": "^ *[0-9]+ *$"},
    "percent": {"type": ["string", "integer"], "pattern": "^ *[0-9]+%? *$"},
    "true or false": {"type": ["string", "boolean"], "pattern": "^([Tt]rue|[Ff]alse)$"},
    "text": {"type": "string"},
    "names, separated by commas": {"type": "string"},
}
"""What a chart's value may be, by the setting's unit. The programs check more: bounds, and what goes together."""


def properties() -> dict[str, Any]:
    """The schema of each setting, by its key."""
    found = {}
    for spec in dataclasses.fields(Settings):
        meta = spec.metadata
        schema = {"description": meta["doc"], **_TYPES[meta["kind"].unit]}
        if meta["choices"] is not None:
            schema = {"description": meta["doc"], "enum": list(meta["choices"])}
        elif "integer" in schema["type"]:
            bounds = {"minimum": meta["least"], "maximum": meta["most"]}
            schema |= {name: bound for name, bound in bounds.items() if bound is not None}
        found[key_of(spec)] = schema
    return found


def text() -> str:
    """The file as it should be."""
    schema = json.loads(PATH.read_text(encoding="utf-8"))
    schema["properties"]["settings"]["properties"] = properties()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or check it."""
    if "--check" not in arguments:
        PATH.write_text(text(), encoding="utf-8")
    elif PATH.read_text(encoding="utf-8") != text():
        print(f"{PATH} is not up to date: run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
