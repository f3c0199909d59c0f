"""What the API answers instead of content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.kube.errors import ApiError
from resultsfs.errors import (
    ContentMismatch,
    ContentMissing,
    ContentTooLarge,
    ResolveError,
    ResultsError,
    StoreError,
)


@dataclass
class Problem(Exception):
    """An HTTP status, and a sentence for people."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


def problem_of(error: ResultsError) -> Problem:
    """What an error of ours comes to for the caller."""
    if isinstance(error, ContentMissing):
        return Problem(410, f"{error}: its run was deleted, or its retention has passed")
    if isinstance(error, ContentMismatch):
        return Problem(502, str(error))
    if isinstance(error, ContentTooLarge):
        return Problem(413, str(error))
    if isinstance(error, ResolveError):
        return Problem(409, str(error))
    if isinstance(error, StoreError | ApiError):
        return Problem(503, str(error), {"Retry-After": "5"})
    return Problem(500, str(error))
