"""The store in S3 and what speaks its protocol, by s3fs.

Requests go through s3fs's `call_s3`: its file object uploads one part after the other, holds a listing cache and hides
answers. Of s3fs we use the session (credentials by the AWS chain, endpoint, region), the event loop and the errors.

Timeouts are ours: a request ends when for `store-timeout` nothing has moved, neither a piece of what is sent taken by
the connection nor a piece of the answer. aiohttp's own read timeout starts only when the body has been sent, so a
server that stops reading would hold a request for ever; a timeout for the whole request would cut slow ones that move.
Retries are ours too (see retry), but for one: aiohttp sends a request once more when its connection is lost.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import email.utils
import io
import math
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from resultsfs.errors import InvalidSetting, StoreRefused
from resultsfs.retry import POLL_SECONDS, Stop, check, never
from resultsfs.settings import Settings
from resultsfs.store_backend import Entry, Part, Taken, unheard

T = TypeVar("T")
_MAX_PARTS = 10_000  # S3's limit
_ASSEMBLED = 16 << 20  # bytes a second: some servers copy all parts into one file before they answer the completion
_DELETE_BATCH = 1000  # S3's limit for DeleteObjects
_READ_PIECE = 256 << 10
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h
_UNSENT = 128 << 10  # bytes; by itself Linux lets some megabytes wait in each connection
_CONNECTIONS = 256  # more than all transfers of a process use: waiting for one would look like a silent server


def make(url: str, settings: Settings) -> S3Backend:
    """The backend of `s3://bucket/prefix`. Raises InvalidSetting for a profile that does not exist."""
    parts = urlsplit(url)
    return S3Backend(parts.netloc, parts.path.strip("/"), settings)


class S3Backend:
    """Objects of one bucket below `prefix`."""

    parallel = True

    def __init__(self, bucket: str, prefix: str, settings: Settings) -> None:
        import botocore.loaders
        import s3fs

        # Its descriptions of services, kept as long as the client, take half the memory in plain dicts, which keep
        # their order too.
        botocore.loaders.OrderedDict = dict
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._part_size = settings.store_part_size
        self._timeout = settings.store_timeout
        session = {"profile": settings.s3_profile} if settings.s3_profile else {}
        if settings.s3_profile:
            import botocore.session

            known = botocore.session.Session().available_profiles
            if settings.s3_profile not in known:
                raise InvalidSetting(f"s3-profile is {settings.s3_profile!r}: the AWS configuration has {known}")
        self._fs = s3fs.S3FileSystem(
            endpoint_url=settings.s3_endpoint or None,
            client_kwargs={"region_name": settings.s3_region} if settings.s3_region else {},
            config_kwargs={
                "connect_timeout": settings.store_timeout,
                "read_timeout": None,
                "retries": {"total_max_attempts": 1, "mode": "standard"},
                "max_pool_connections": _CONNECTIONS,
                "connector_args": {"socket_factory": _socket},
                "s3": {"addressing_style": settings.s3_addressing_style},
                "signature_version": "s3v4",  # presigned URLs would be of version 2 otherwise
                # The content's SHA-256 is checked end to end; the newer checksum headers break older S3 servers.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            s3_additional_kwargs=_encryption(settings),
            use_listings_cache=False,
            skip_instance_cache=True,
            **session,
        )
        self._fs.retries = 1  # s3fs's own, beside botocore's

    def _object(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + path}

    def _url(self, path: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{path}"

    def call(
        self,
        method: str,
        arguments: Mapping[str, Any],
        stop: Stop = never,
        body: Part | None = None,
        taken: Taken = unheard,
        patience: float = 0.0,
    ) -> dict[str, Any]:
        """One request by its botocore name; raises what s3fs raises, TimeoutError, UploadAbandoned.

        `patience`: seconds beyond store-timeout for which the answer is waited for.
        """

        async def request(moved: Callable[[], None]) -> dict[str, Any]:
            content = {} if body is None else {"Body": _Body(body, moved, taken)}
            answer: dict[str, Any] = await self._fs._call_s3(method, **arguments, **content)
            return answer

        return self._run(request, method, stop, self._timeout + patience)

    def _run(
        self, request: Callable[[Callable[[], None]], Awaitable[T]], what: str, stop: Stop, timeout: float | None = None
    ) -> T:
        patience = self._timeout if timeout is None else timeout

        async def watched() -> T:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(patience) as idle:
                return await request(lambda: idle.reschedule(loop.time() + patience))

        future = asyncio.run_coroutine_threadsafe(watched(), self._fs.loop)
        try:
            while True:
                try:
                    return future.result(None if stop is never else POLL_SECONDS)
                except concurrent.futures.TimeoutError:  # the same class as what the request itself may raise
                    if future.done():
                        raise
                    check(stop, what)
        finally:
            future.cancel()

    def put(self, path: str, data: bytes, stop: Stop, taken: Taken = unheard) -> None:
        """PutObject."""
        self.call("put_object", self._object(path), stop, data, taken)

    def upload(self, path: str, size: int, stop: Stop) -> S3Upload:
        """CreateMultipartUpload; parts grow where S3's number of parts would not be enough."""
        part_size = max(self._part_size, math.ceil(size / _MAX_PARTS))
        answer = self.call("create_multipart_upload", self._object(path), stop)
        return S3Upload(self, {**self._object(path), "UploadId": answer["UploadId"]}, part_size, size)

    def sign(self, path: str, seconds: int) -> str | None:
        """A presigned GetObject."""
        return str(self._fs.sign(f"{self._bucket}/{self._prefix}{path}", expiration=seconds))

    def size(self, path: str, stop: Stop) -> int:
        """HeadObject."""
        return int(self.call("head_object", self._object(path), stop)["ContentLength"])

    def read(self, path: str, start: int, into: memoryview, stop: Stop) -> int:
        """GetObject with a range."""

        async def request(moved: Callable[[], None]) -> int:
            span = f"bytes={start}-{start + len(into) - 1}"
            answer = await self._fs._call_s3("get_object", **self._object(path), Range=span)
            filled = 0
            async with answer["Body"] as stream:
                while piece := await stream.read(_READ_PIECE):
                    if filled + len(piece) > len(into):
                        raise StoreRefused(f"{self._url(path)}: the store does not honour the Range {span}")
                    into[filled : filled + len(piece)] = piece
                    filled += len(piece)
                    moved()
            return filled

        return self._run(request, "get_object", stop)

    def modified(self, path: str) -> datetime | None:
        """LastModified, in whole seconds."""
        time: datetime = self.call("head_object", self._object(path))["LastModified"]
        return time

    def _pages(self, prefix: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self.call("list_objects_v2", {"Bucket": self._bucket, "Prefix": prefix, **arguments, **token})
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def list(self, path: str) -> Iterator[Entry]:
        """ListObjectsV2, one level."""
        prefix = self._prefix + (f"{path}/" if path else "")
        for page in self._pages(prefix, Delimiter="/"):
            for common in page.get("CommonPrefixes", ()):
                yield Entry(common["Prefix"].removeprefix(prefix).rstrip("/"), None)
            for found in page.get("Contents", ()):
                if found["Key"] != prefix:  # some tools make an object that stands for a directory
                    yield Entry(found["Key"].removeprefix(prefix), int(found["Size"]))

    def delete(self, path: str) -> None:
        """DeleteObject, which succeeds for what is not there."""
        self.call("delete_object", self._object(path))

    def delete_tree(self, path: str) -> None:
        """DeleteObjects for all that is listed below."""
        for page in self._pages(f"{self._prefix}{path}/", MaxKeys=_DELETE_BATCH):
            found = [{"Key": item["Key"]} for item in page.get("Contents", ())]
            if not found:
                continue
            answer = self.call("delete_objects", {"Bucket": self._bucket, "Delete": {"Objects": found, "Quiet": True}})
            for failed in answer.get("Errors", ()):
                name = f"s3://{self._bucket}/{failed.get('Key')}"
                raise StoreRefused(f"delete {name}: {failed.get('Code')}: {failed.get('Message')}")

    def abort_stale(self, age: float) -> int:
        """Abort multipart uploads that were begun more than `age` seconds ago; how many."""
        markers: dict[str, str] = {}
        count = 0
        while True:
            try:
                page = self.call("list_multipart_uploads", {"Bucket": self._bucket, "Prefix": self._prefix, **markers})
            except FileNotFoundError as error:
                if _code(error) == "NoSuchUpload":  # rclone's way to say that there are none
                    return count
                raise
            oldest = _clock(page) - timedelta(seconds=age)
            for upload in page.get("Uploads", ()):
                if upload["Key"].startswith(self._prefix) and upload["Initiated"] <= oldest:
                    self.call(
                        "abort_multipart_upload",
                        {"Bucket": self._bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]},
                    )
                    count += 1
            if not page.get("IsTruncated"):
                return count
            markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def close(self) -> None:
        """Close the connections."""
        client, self._fs._s3 = self._fs._s3, None
        if client is not None:
            asyncio.run_coroutine_threadsafe(client.close(), self._fs.loop).result(self._timeout)


class S3Upload:
    """A multipart upload."""

    def __init__(self, backend: S3Backend, target: dict[str, str], part_size: int, size: int) -> None:
        self.part_size = part_size
        self._size = size
        self._backend = backend
        self._target = target
        self._etags: dict[int, str] = {}

    def write(self, number: int, data: Part, stop: Stop, taken: Taken = unheard) -> None:
        """UploadPart."""
        answer = self._backend.call("upload_part", {**self._target, "PartNumber": number + 1}, stop, data, taken)
        self._etags[number] = answer["ETag"]

    def complete(self, stop: Stop) -> None:
        """CompleteMultipartUpload."""
        parts = [{"PartNumber": number + 1, "ETag": self._etags[number]} for number in sorted(self._etags)]
        named = {**self._target, "MultipartUpload": {"Parts": parts}}
        self._backend.call("complete_multipart_upload", named, stop, patience=self._size / _ASSEMBLED)

    def abort(self) -> None:
        """AbortMultipartUpload."""
        self._backend.call("abort_multipart_upload", self._target)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that takes little more than the network does: what is taken then says that bytes move."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT)
    return made


class _Body(io.BytesIO):
    """Bytes on their way that tell when another piece was taken.

    A BytesIO by name, which is what aiohttp sends without threads; but it copies nothing. BytesIO itself would, and
    once more when aiohttp asks for its buffer. `taken` is told only of what is sent: botocore reads all of it before
    to sign it, also where no server listens.
    """

    def __init__(self, data: Part, moved: Callable[[], None], taken: Taken) -> None:
        super().__init__()
        self._view = memoryview(data)
        self._at = 0
        self._moved = moved
        self._taken = taken
        self._sent = False

    def getbuffer(self) -> memoryview:
        """All of it; a view of its own, for aiohttp releases it. What is read from now on is sent."""
        self._sent = True
        return memoryview(self._view)

    def read(self, size: int | None = -1) -> bytes:
        """The next piece."""
        self._moved()
        if self._sent and self._at:  # whoever wants more has passed on what came before
            self._taken(self._at)
        start, rest = self._at, len(self._view) - self._at
        self._at += rest if size is None or size < 0 else min(size, rest)
        return bytes(self._view[start : self._at])

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, as botocore does to learn the length and to sign."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        self._at = min(max(0, base + offset), len(self._view))
        return self._at

    def tell(self) -> int:
        """The position."""
        return self._at


def _code(error: BaseException) -> str:
    """The S3 error code behind an error of s3fs; "" without one."""
    response = getattr(error.__cause__, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _clock(answer: Mapping[str, Any]) -> datetime:
    """Now by the store's clock, which dates what it holds, and not by this machine's, which may be wrong."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if text is None:
        return datetime.now(UTC)
    return email.utils.parsedate_to_datetime(text) + timedelta(seconds=1)  # the header is cut to whole seconds


def _encryption(settings: Settings) -> dict[str, str]:
    if not settings.s3_sse:
        return {}
    key = {"SSEKMSKeyId": settings.s3_sse_kms_key_id} if settings.s3_sse_kms_key_id else {}
    return {"ServerSideEncryption": settings.s3_sse, **key}
