"""Errors: each is an OSError with its errno, and speaks one sentence."""

from __future__ import annotations

import errno
import inspect

import pytest

from resultsfs import errors
from resultsfs.errors import ResultsError

FAMILY = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ResultsError)]


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_an_error_carries_its_errno_and_message(kind: type[ResultsError]) -> None:
    """`str` is the message alone, `errno` is the class's, and another one may be given."""
    error = kind("the thing, the value, the way out")
    assert str(error) == error.message == "the thing, the value, the way out"
    assert error.errno == kind.default_errno and error.errno in errno.errorcode
    assert kind("x", errno.EXDEV).errno == errno.EXDEV


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_an_error_stays_its_own_class(kind: type[ResultsError]) -> None:
    """An OSError turns itself into a subclass by its errno; ours must not."""
    assert type(kind("x")) is kind


def test_what_is_missing_is_a_missing_file() -> None:
    """Whoever expects FileNotFoundError of a store gets one."""
    with pytest.raises(FileNotFoundError):
        raise errors.ContentMissing("content x")


def test_only_unavailability_is_temporary() -> None:
    """Retrying can help where the store is away, and nowhere else."""
    temporary = [kind for kind in FAMILY if getattr(kind, "temporary", False)]
    assert temporary == [errors.StoreUnavailable]
