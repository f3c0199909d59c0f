"""What backends raise, told as what it means for us: the one place that knows their errors.

Temporary (StoreUnavailable): no answer, a lost connection, an overloaded server. Permanent (StoreRefused): the
server understood and said no, or nobody can send the request. A missing object is ContentMissing. Anything that is no
failure of a store (a TypeError, say) passes unchanged.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from resultsfs.errors import ContentMissing, ResultsError, StoreError, StoreRefused, StoreUnavailable

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and what MinIO and Ceph add.
_MISSING_CODES = {"NoSuchKey", "NotFound", "404"}
_TEMPORARY_CODES = {
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "RequestTimeout",
    "RequestTimeoutException",
    "Throttling",
    "ThrottlingException",
    "RequestThrottled",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "BandwidthLimitExceeded",
    "OperationAborted",
    "PriorRequestNotComplete",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "NoSuchUpload",  # of a multipart upload that the server lost: a new one can succeed
    "InvalidPart",  # likewise; and while the server is still at a completion whose answer nobody waited for
    "ServerNotInitialized",
    "XMinioServerNotInitialized",
}
_FULL_CODES = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}
_HINTS = {
    "NoSuchBucket": "create the bucket, or correct the setting store",
    "RequestTimeTooSkewed": "this machine's clock and the store's differ: set the clock",
    "InvalidAccessKeyId": "check the credentials",
    "SignatureDoesNotMatch": "check the credentials and s3-region",
    "403": "check the credentials and their rights",  # the answer to a HEAD has no body that says more
    "AccessDenied": "the credentials need the right to get, put, list and delete below the store's prefix",
    "ExpiredToken": "renew the credentials",
    "PermanentRedirect": "the bucket is in another region: set s3-region or s3-endpoint",
    "AuthorizationHeaderMalformed": "set s3-region to the bucket's region",
}
_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_FULL_STATUS = 507

_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT}
_REFUSED_ERRNO = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EINVAL,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.EFBIG,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
}
# Failures of a connection, by module and base class, so that no client library is imported to recognise them.
_CONNECTION = {
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.IncompleteReadError",
    "botocore.parsers.ResponseParserError",
    "aiohttp.client_exceptions.ClientError",
    "azure.core.exceptions.ServiceRequestError",
    "azure.core.exceptions.ServiceResponseError",
}
_CERTIFICATE = {
    "botocore.exceptions.SSLError",
    "botocore.exceptions.ProxyConnectionError",
    "aiohttp.client_exceptions.ClientSSLError",
}
_CLIENT = {"botocore.exceptions.BotoCoreError", "google.auth.exceptions.GoogleAuthError"}


class NoPlace(OSError):
    """There is no place to write to, and none can be made; the message names it and the reason."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what a backend raises in the block as a StoreError whose message begins with `what`."""
    try:
        yield
    except ResultsError:
        raise
    except Exception as error:
        meant = meaning(error, what)
        if meant is None:
            raise
        raise meant from error


@contextmanager
def writing(what: str) -> Iterator[None]:
    """As `translated`, for a request that stores: what is missing then is the place, and that is StoreRefused."""
    try:
        with translated(what):
            yield
    except ContentMissing as error:
        reason = _text(error.__cause__ or error)
        raise StoreRefused(
            f"{what}: the store has no such place: {reason}: create the bucket or directory, or correct the setting store"
        ) from error


def meaning(error: BaseException, what: str) -> StoreError | None:
    """The StoreError that `error` amounts to; None when it is no failure of a store."""
    link: BaseException | None = error
    while link is not None:
        response = getattr(link, "response", None)
        if isinstance(response, dict) and "Error" in response:
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return _answered(str(response["Error"].get("Code", "")), int(status), str(link), what)
        families = {f"{base.__module__}.{base.__qualname__}" for base in type(link).__mro__}
        if families & _CERTIFICATE:
            return StoreRefused(f"{what}: {link}: check s3-endpoint, its certificate and the proxy settings")
        if families & _CONNECTION:
            return StoreUnavailable(f"{what}: {_text(link)}")
        if families & _CLIENT:
            return StoreRefused(f"{what}: {_text(link)}")
        link = link.__cause__
    status = next((code for name in ("status_code", "code") if isinstance(code := getattr(error, name, None), int)), 0)
    if status:  # gcsfs and azure carry the HTTP status on the exception itself
        return _answered(str(status), status, _text(error), what)
    if isinstance(error, TimeoutError):  # also asyncio's and fsspec's
        return StoreUnavailable(f"{what}: no answer in time")
    if isinstance(error, NoPlace):
        return StoreRefused(f"{what}: {error}: correct the setting store, or the directory")
    if isinstance(error, FileNotFoundError):
        return ContentMissing(f"{what}: there is no such content")
    if isinstance(error, OSError):
        return _local(error, what)
    return None


def _answered(code: str, status: int, text: str, what: str) -> StoreError:
    message = f"{what}: {text}" + (f": {_HINTS[code]}" if code in _HINTS else "")
    if code in _FULL_CODES or status == _FULL_STATUS:
        return StoreRefused(f"{what}: the store is full: {text}: make room or raise its quota", errno.ENOSPC)
    if code in _TEMPORARY_CODES or status in _TEMPORARY_STATUS:
        return StoreUnavailable(message)
    if code in _MISSING_CODES:
        return ContentMissing(f"{what}: there is no such content")
    return StoreRefused(message)


def _local(error: OSError, what: str) -> StoreError:
    if error.errno in _FULL_ERRNO:
        return StoreRefused(f"{what}: the store is full: {_text(error)}: make room", errno.ENOSPC)
    if isinstance(error, PermissionError) or error.errno in _REFUSED_ERRNO:
        return StoreRefused(f"{what}: {_text(error)}")
    return StoreUnavailable(f"{what}: {_text(error)}")


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and not error.args[1:]:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
