"""A result's value as Tekton's status holds it, and the content that it stands for."""

from __future__ import annotations

import json
from collections.abc import Iterable

from resultsfs.record import ResultValue
from resultsfs.reference import WHOLE_ARRAY, Reference, find
from resultsfs.resolve import Content, assembled


def references(value: ResultValue) -> tuple[Reference, ...]:
    """The references in a value, each once, in order."""
    texts: Iterable[str] = [value] if isinstance(value, str) else value.values() if isinstance(value, dict) else value
    return tuple(dict.fromkeys(found.reference for text in texts for found in find(text)))


def single_reference(value: ResultValue) -> Reference | None:
    """The reference that a value consists of, a whole array's included; None for all others."""
    text = value[0].removesuffix(WHOLE_ARRAY) if isinstance(value, list) and len(value) == 1 else value
    if isinstance(value, list) and not (len(value) == 1 and value[0].endswith(WHOLE_ARRAY)):
        return None
    return Reference.match(text) if isinstance(text, str) else None


def original(value: ResultValue, content: Content, label: str, limit: int) -> ResultValue:
    """The value with content in place of its references, `limit` bytes of it at most. Raises ResolveError, StoreError."""
    return assembled(value, content, limit=limit, label=label)


def encoded(value: ResultValue) -> bytes:
    """A value as bytes: a text as it is, an array or object as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode()
