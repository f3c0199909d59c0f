"""What a cluster remembers of itself between commands: small JSON files, whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record beside its place and put it there, so that a crash or a full disk leaves none, or the old one."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def read(path: Path, *keys: str) -> dict[str, Any] | None:
    """The record, which has these keys; None if there is none, or none that can be made sense of."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= {*keys} else None
