"""What the API server answered instead of what was asked for. None of them means absence but `NotFound`."""

from __future__ import annotations

from resultsfs.errors import ResultsError


class ApiError(ResultsError):
    """The API server refused or failed; `status` is the HTTP status, 0 when none came."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFound(ApiError):
    """There is no such object."""


class Conflict(ApiError):
    """Somebody else changed or made the object meanwhile."""


class Gone(ApiError):
    """The resource version is too old: list again."""


class ApiUnavailable(ApiError):
    """The API server cannot be reached, is overloaded or failed: asking again can help."""


_KINDS: dict[int, type[ApiError]] = {404: NotFound, 409: Conflict, 410: Gone, 429: ApiUnavailable}


def error_of(status: int, message: str) -> ApiError:
    """The error for an HTTP status."""
    kind = _KINDS.get(status, ApiUnavailable if status >= 500 else ApiError)
    return kind(message, status)
