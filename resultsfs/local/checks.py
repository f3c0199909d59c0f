"""Checks of a document's fields: each takes a value and its place, and refuses what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resultsfs.errors import InvalidDocument

Check = Callable[[Any, "Where"], None]


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a document, for messages: `Pipeline "x": spec.tasks[2].name`. `beta` for tekton.dev/v1beta1."""

    document: str
    path: str = ""
    beta: bool = False

    def field(self, name: str) -> Where:
        """The place of a field of the object here."""
        return Where(self.document, f"{self.path}.{name}" if self.path else name, self.beta)

    def item(self, index: int) -> Where:
        """The place of an item of the list here."""
        return Where(self.document, f"{self.path}[{index}]", self.beta)

    def error(self, problem: str) -> InvalidDocument:
        """An error that names this place."""
        return InvalidDocument(f"{self.document}: {self.path or 'the document'} {problem}")


def text(value: Any, where: Where) -> None:
    """Text; numbers and booleans must be quoted, as the API server wants it."""
    if not isinstance(value, str):
        raise where.error(f"is {value!r}: expected text (put it in quotes)")


def flag(value: Any, where: Where) -> None:
    """`true` or `false`."""
    if not isinstance(value, bool):
        raise where.error(f"is {value!r}: expected true or false")


def count(value: Any, where: Where) -> None:
    """A whole number that is not negative."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise where.error(f"is {value!r}: expected a whole number that is not negative")


def anything(value: Any, where: Where) -> None:
    """Accepted without a look: it has no meaning without images, nodes or a user interface."""


def param_value(value: Any, where: Where) -> None:
    """A param's value: text, a list of texts or a mapping of texts; Tekton takes other values as their JSON."""


def refused(value: Any, where: Where) -> None:
    """Known to Tekton, not to the local runner."""
    raise where.error("is not supported by the local runner")


def refused_because(reason: str) -> Check:
    """Known to Tekton, not to the local runner, with what to do."""

    def check(value: Any, where: Where) -> None:
        raise where.error(f"is not supported by the local runner: {reason}")

    return check


def only_in_beta(inner: Check) -> Check:
    """A spelling that tekton.dev/v1 does not have."""

    def check(value: Any, where: Where) -> None:
        if not where.beta:
            raise where.error("is unknown in tekton.dev/v1")
        inner(value, where)

    return check


def only_when_false(value: Any, where: Where) -> None:
    """A flag that may be spelled out, but not set."""
    flag(value, where)
    if value:
        refused(value, where)


def one_of(*allowed: str, variable: bool = False) -> Check:
    """One of a few words; `variable` lets a text with a variable stand for one."""

    def check(value: Any, where: Where) -> None:
        text(value, where)
        if value not in allowed and not (variable and "$(" in value):
            raise where.error(f"is {value!r}: expected {' or '.join(repr(word) for word in allowed)}")

    return check


def list_of(inner: Check) -> Check:
    """A list."""

    def check(value: Any, where: Where) -> None:
        if not isinstance(value, list):
            raise where.error(f"is {value!r}: expected a list")
        for index, item in enumerate(value):
            inner(item, where.item(index))

    return check


def named(inner: Check) -> Check:
    """A list of objects whose `name` is there and unique."""

    def check(value: Any, where: Where) -> None:
        list_of(inner)(value, where)
        seen: set[str] = set()
        for index, item in enumerate(value):
            if not item.get("name"):
                raise where.item(index).error("has no name")
            if item["name"] in seen:
                raise where.item(index).field("name").error(f"is {item['name']!r}, which appears more than once")
            seen.add(item["name"])

    return check


def mapping_of(inner: Check) -> Check:
    """A mapping with any keys."""

    def check(value: Any, where: Where) -> None:
        if not isinstance(value, dict):
            raise where.error(f"is {value!r}: expected a mapping")
        for key, item in value.items():
            inner(item, where.field(str(key)))

    return check


def fields(table: Mapping[str, Check], *, required: tuple[str, ...] = ()) -> Check:
    """An object with exactly these fields. A field that is null counts as absent, as in Tekton."""

    def check(value: Any, where: Where) -> None:
        if not isinstance(value, dict):
            raise where.error(f"is {value!r}: expected a mapping")
        for key, item in value.items():
            if key not in table:
                raise where.field(str(key)).error(f"is unknown to Tekton; known here are {', '.join(sorted(table))}")
            if item is not None:
                table[key](item, where.field(key))
        for key in required:
            if value.get(key) in (None, "", [], {}):
                raise where.field(key).error("is missing")

    return check
