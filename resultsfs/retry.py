"""When a request to the store is tried again: the one policy, for all backends.

A temporary failure (`StoreError.temporary`) is tried again up to `store-retries` times, after a random pause
between 0 and a bound that doubles from 0.2 to 15 seconds ("full jitter": many nodes that lost one store do not come
back in step). A permanent failure is raised at once. Clients' own retries are switched off, lest they multiply.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity

from resultsfs.errors import StoreError, UploadAbandoned
from resultsfs.store_errors import translated

T = TypeVar("T")
Stop = Callable[[], bool]
"""Asked often and from several threads: whether the caller has lost interest."""

POLL_SECONDS = 0.05
"""How soon a `Stop` is noticed."""

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 15.0
_log = logging.getLogger(__name__)


def never() -> bool:
    """A `Stop` of somebody who waits to the end."""
    return False


def check(stop: Stop, what: str) -> None:
    """Raise UploadAbandoned when the caller has lost interest."""
    if stop():
        raise UploadAbandoned(f"{what}: given up on request")


class RetryPolicy:
    """Runs requests by the policy; `retries` is how often one is tried again. Safe to share between threads."""

    def __init__(self, retries: int) -> None:
        self._attempts = retries + 1
        self.retried: Callable[[], None] = lambda: None
        """Called before each further try."""

    def call(self, action: Callable[[], T], what: str, stop: Stop = never) -> T:
        """The value of `action()`, in which any failure of a backend becomes a StoreError.

        Raises StoreUnavailable after the last attempt, other StoreErrors at once, and UploadAbandoned as soon as
        `stop()` is true, also in the middle of a pause.
        """

        def attempt() -> T:
            check(stop, what)
            with translated(what):
                return action()

        def pause(seconds: float) -> None:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                check(stop, what)
                time.sleep(min(left, POLL_SECONDS))

        def report(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            self.retried()
            _log.info("attempt %d of %d failed, trying again: %s", state.attempt_number, self._attempts, error)

        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, StoreError) and error.temporary),
            sleep=pause,
            before_sleep=report,
            reraise=True,
        )(attempt)
