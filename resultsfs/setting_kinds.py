"""Kinds of settings: how a value of each is read from text and written back, and a dataclass field for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from resultsfs import units


@dataclass(frozen=True)
class Kind:
    """How one kind of value is read from text and written back."""

    unit: str
    parse: Callable[[str], Any]
    format: Callable[[Any], str]


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("expected a whole number") from None


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError('expected "true" or "false"')
    return text.lower() == "true"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.replace(",", " ").split() if part)


SIZE = Kind("bytes", units.parse_size, units.format_size)
DURATION = Kind("seconds", units.parse_duration, units.format_duration)
COUNT = Kind("count", _whole, str)
PERCENT = Kind("percent", lambda text: _whole(text.removesuffix("%")), lambda value: f"{value}%")
FLAG = Kind("true or false", _boolean, lambda value: str(value).lower())
TEXT = Kind("text", str, str)
NAMES = Kind("names, separated by commas", _names, ", ".join)


def setting(
    kind: Kind,
    default: Any,
    doc: str,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] | None = None,
    narrowable: bool = False,
) -> Any:
    """A field of `Settings`; `narrowable`: annotations of namespaces and runs may set it."""
    return field(
        default=default,
        metadata={
            "kind": kind,
            "doc": doc,
            "least": least,
            "most": most,
            "choices": choices,
            "narrowable": narrowable,
        },
    )
