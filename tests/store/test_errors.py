"""What backends raise and what it means: retried or not, and what a person is told."""

from __future__ import annotations

import errno

import aiohttp
import botocore.exceptions
import pytest

from resultsfs.errors import ContentMissing, StoreError, StoreRefused, StoreUnavailable, UploadAbandoned
from resultsfs.progress import KEPT, Progress
from resultsfs.retry import RetryPolicy
from resultsfs.store_errors import meaning, translated, writing


class _Answered(Exception):
    """An error that carries an HTTP status, as gcsfs's and azure's do."""

    def __init__(self, status: int) -> None:
        super().__init__(f"answered {status}")
        self.status_code = status


def client_error(code: str, status: int) -> botocore.exceptions.ClientError:
    """What botocore raises for an answer."""
    answer = {"Error": {"Code": code, "Message": "said the server"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "PutObject")


@pytest.mark.parametrize(
    ("error", "kind", "number"),
    [
        (client_error("NoSuchKey", 404), ContentMissing, errno.ENOENT),
        (client_error("404", 404), ContentMissing, errno.ENOENT),
        (client_error("NoSuchBucket", 404), StoreRefused, errno.EACCES),
        (client_error("SlowDown", 503), StoreUnavailable, errno.EAGAIN),
        (client_error("NeverHeardOf", 502), StoreUnavailable, errno.EAGAIN),
        (client_error("NeverHeardOf", 418), StoreRefused, errno.EACCES),
        (client_error("XMinioStorageFull", 507), StoreRefused, errno.ENOSPC),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), StoreUnavailable, errno.EAGAIN),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), StoreUnavailable, errno.EAGAIN),
        (botocore.exceptions.SSLError(endpoint_url="https://x", error="bad"), StoreRefused, errno.EACCES),
        (botocore.exceptions.NoCredentialsError(), StoreRefused, errno.EACCES),
        (aiohttp.ClientPayloadError("cut"), StoreUnavailable, errno.EAGAIN),
        (aiohttp.ServerDisconnectedError(), StoreUnavailable, errno.EAGAIN),
        (_Answered(404), ContentMissing, errno.ENOENT),
        (_Answered(429), StoreUnavailable, errno.EAGAIN),
        (_Answered(507), StoreRefused, errno.ENOSPC),
        (TimeoutError(), StoreUnavailable, errno.EAGAIN),
        (FileNotFoundError(errno.ENOENT, "gone"), ContentMissing, errno.ENOENT),
        (OSError(errno.ENOSPC, "full"), StoreRefused, errno.ENOSPC),
        (OSError(errno.EDQUOT, "full"), StoreRefused, errno.ENOSPC),
        (PermissionError(errno.EACCES, "no"), StoreRefused, errno.EACCES),
        (OSError(errno.EROFS, "no"), StoreRefused, errno.EACCES),
        (OSError(errno.EIO, "disk"), StoreUnavailable, errno.EAGAIN),
        (OSError(errno.ESTALE, "nfs"), StoreUnavailable, errno.EAGAIN),
        (ConnectionResetError(errno.ECONNRESET, "reset"), StoreUnavailable, errno.EAGAIN),
    ],
    ids=lambda value: value if isinstance(value, int) else getattr(value, "__name__", repr(value))[:50],
)
def test_meaning(error: Exception, kind: type[StoreError], number: int) -> None:
    """Each error is the member of our family that says whether trying again helps, naming what was asked."""
    meant = meaning(error, "store x")
    assert type(meant) is kind
    assert meant is not None
    assert meant.errno == number
    assert str(meant).startswith("store x: ")


@pytest.mark.parametrize("error", [_Answered(404), FileNotFoundError(2, "gone"), client_error("NoSuchKey", 404)])
def test_what_a_write_misses_is_its_place(error: Exception) -> None:
    """Not found, said to a request that stores, is StoreRefused with the reason and the way out."""
    with (
        pytest.raises(StoreRefused, match=r"^store x: the store has no such place: .*create the bucket"),
        writing("store x"),
    ):
        raise error


def test_progress_counts_a_byte_once() -> None:
    """Only what no attempt got to before is new; what is acknowledged is forgotten; memory is bounded."""
    progress = Progress()
    assert [progress.taken("a", 0, count) for count in (10, 30, 10, 30, 35)] == [10, 20, 0, 0, 5]
    assert progress.taken("a", 1, 7) == 7
    assert progress.acknowledged("a", 0, 40) == 5
    assert progress.acknowledged("a", 1, 7) == 0
    assert progress.taken("a", 0, 10) == 10
    for number in range(KEPT):
        progress.taken("b", number, 1)
    assert progress.taken("b", 0, 1) == 0
    assert progress.acknowledged("a", 0, 40) == 40


def test_mistakes_of_a_program_are_not_failures_of_a_store() -> None:
    """A TypeError passes unchanged, and is not tried again."""
    calls = []

    def wrong() -> None:
        calls.append(1)
        raise TypeError("a mistake")

    with pytest.raises(TypeError, match="a mistake"):
        RetryPolicy(5).call(wrong, "store x")
    assert len(calls) == 1
    with pytest.raises(KeyError), translated("store x"):
        raise KeyError("x")


def test_the_last_error_is_the_one_that_counts() -> None:
    """After the last attempt its error is raised, with the backend's as its cause."""
    errors = [OSError(errno.EIO, f"attempt {number}") for number in range(3)]

    def fail() -> None:
        raise errors.pop(0)

    with pytest.raises(StoreUnavailable, match="attempt 2") as caught:
        RetryPolicy(2).call(fail, "store x")
    assert isinstance(caught.value.__cause__, OSError)
    assert errors == []


def test_stop_before_the_first_attempt() -> None:
    """Nothing is asked for somebody who has lost interest."""
    with pytest.raises(UploadAbandoned, match="store x: given up"):
        RetryPolicy(5).call(lambda: pytest.fail("asked"), "store x", lambda: True)


def test_every_store_error_says_whether_to_try_again() -> None:
    """The family's members carry `temporary`, and only StoreUnavailable is."""
    temporary = {kind for kind in StoreError.__subclasses__() if kind.temporary}
    assert temporary == {StoreUnavailable}
