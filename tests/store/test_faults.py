"""The store fails: what is tried again, what is not, what is left behind. A real S3 server behind a faulty proxy."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from resultsfs.errors import (
    ContentMismatch,
    ContentMissing,
    InvalidSetting,
    StoreRefused,
    StoreUnavailable,
    UploadAbandoned,
)
from resultsfs.settings import Settings
from resultsfs.store import BLOCK, Store
from tests.support.faultproxy import Fault, FaultProxy, Kind
from tests.support.s3server import S3Server
from tests.support.stores import chunks_of, content, key_of, put

pytestmark = pytest.mark.s3
PART = 5 << 20
SMALL = content(1000)
LARGE = content(4 * PART + 7)
Open = Callable[[Settings], Store]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens stores that are closed after the test."""
    stores: list[Store] = []

    def open_(settings: Settings) -> Store:
        stores.append(Store.open(settings))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


def the_object(settings: Settings, key: object) -> list[str]:
    """What the bucket has when the content of that key is all there is."""
    return [f"{settings.store.rpartition('/')[2]}/{key}"]


def test_a_server_that_refuses_connections(s3_server: S3Server, opened: Open) -> None:
    """A store that nobody listens for is unavailable, after the retries, and the message names the endpoint."""
    with socket.socket() as deaf:  # bound but not listening: its port refuses connections
        deaf.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        store = opened(s3_server.settings(s3_endpoint=endpoint, store_retries=1))
        with pytest.raises(StoreUnavailable, match=endpoint) as caught:
            put(store, SMALL)
        assert caught.value.temporary
        with pytest.raises(StoreUnavailable):
            store.probe()


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one-put", "multipart"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(Kind.RESET, "PUT", times=2),
        Fault(Kind.ANSWER, "PUT", times=2),
        Fault(Kind.ANSWER, "PUT", times=2, status=503, code="SlowDown"),
        Fault(Kind.ANSWER, "PUT", times=2, status=500, code="InternalError"),
        Fault(Kind.CUT, "PUT", times=2, after=500),
        Fault(Kind.LOSE_ANSWER, "PUT", times=1),
    ],
    ids=lambda fault: f"{fault.kind.name}-{fault.code}",
)
def test_temporary_failures_are_tried_again(fault_proxy: FaultProxy, opened: Open, fault: Fault, data: bytes) -> None:
    """Resets, cuts in mid-upload, 500 and 503 are overcome; the content is whole and nothing else is left."""
    settings = fault_proxy.settings(store_part_size=PART, store_retries=4)
    store = opened(settings)
    fault_proxy.fault = fault
    key = put(store, data)
    assert fault_proxy.hits == fault.times
    fault_proxy.fault = None
    assert store.fetch(key, len(data)) == data
    assert store.abort_stale(0) == 0


@pytest.mark.parametrize(
    ("status", "code", "way_out"),
    [
        (403, "AccessDenied", "right to get, put, list and delete"),
        (403, "SignatureDoesNotMatch", "check the credentials"),
        (403, "RequestTimeTooSkewed", "set the clock"),
        (404, "NoSuchBucket", "create the bucket"),
        (400, "InvalidArgument", "InvalidArgument"),
    ],
)
def test_permanent_failures_are_not_tried_again(
    fault_proxy: FaultProxy, opened: Open, status: int, code: str, way_out: str
) -> None:
    """What the server refuses for good is asked once, and the message says what to do."""
    store = opened(fault_proxy.settings())
    fault_proxy.fault = Fault(Kind.ANSWER, "PUT", status=status, code=code)
    with pytest.raises(StoreRefused, match=way_out) as caught:
        put(store, SMALL)
    assert not caught.value.temporary
    assert fault_proxy.hits == 1


@pytest.mark.parametrize(("status", "code"), [(507, "InsufficientStorage"), (403, "QuotaExceeded")])
def test_a_full_store(fault_proxy: FaultProxy, s3_server: S3Server, opened: Open, status: int, code: str) -> None:
    """A store that runs full in mid-upload is refused with ENOSPC, and what was sent is removed."""
    settings = fault_proxy.settings(store_part_size=PART)
    store = opened(settings)
    fault_proxy.fault = Fault(Kind.ANSWER, "PUT", "partNumber=3", status=status, code=code)
    with pytest.raises(StoreRefused, match="store is full") as caught:
        put(store, LARGE)
    assert caught.value.errno == errno.ENOSPC
    fault_proxy.fault = None
    assert store.abort_stale(0) == 0
    assert s3_server.objects(settings) == []


def test_a_server_that_hangs(fault_proxy: FaultProxy, opened: Open) -> None:
    """A server that neither reads nor answers is unavailable after store-timeout, for every kind of request."""
    store = opened(fault_proxy.settings(store_timeout=1.0, store_retries=1, store_part_size=PART))
    key = key_of(LARGE)
    asks: list[Callable[[], object]] = [
        lambda: put(store, SMALL),
        lambda: put(store, LARGE),
        lambda: store.size(key),
        lambda: store.fetch(key, 10),
        lambda: list(store.runs()),
        store.probe,
    ]
    for ask in asks:
        fault_proxy.fault = Fault(Kind.HANG)
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            ask()
        fault_proxy.wait_for_hits(2)  # it may read what was sent after the client has given up


def test_a_server_that_stops_reading_a_part(fault_proxy: FaultProxy, opened: Open) -> None:
    """A connection that takes no more of a body ends by store-timeout, the part is sent again."""
    store = opened(fault_proxy.settings(store_timeout=5.0, store_retries=4, store_part_size=PART))
    fault_proxy.fault = Fault(Kind.HANG, "PUT", "partNumber=2", times=1)
    key = put(store, LARGE)
    assert fault_proxy.hits == 1
    assert store.fetch(key, len(LARGE)) == LARGE


def test_a_slow_store_that_moves_is_not_cut(fault_proxy: FaultProxy, opened: Open) -> None:
    """Transfers that take longer than store-timeout go through, without a retry, while bytes pass."""
    data = content(2 << 20)
    store = opened(fault_proxy.settings(store_timeout=6.0, store_retries=0))
    fault_proxy.fault = Fault(Kind.SLOW, rate=256 << 10)  # eight seconds each way
    key = put(store, data)
    assert store.fetch(key, len(data)) == data


@pytest.mark.parametrize("size", [4 << 20, 2 * PART], ids=["one-put", "multipart"])
def test_a_slow_store_shows_that_it_moves(fault_proxy: FaultProxy, opened: Open, size: int) -> None:
    """Pieces that the connection takes are told long before the store acknowledges a request, each byte once."""
    data = content(size)
    store = opened(fault_proxy.settings(store_part_size=PART))
    moved: list[int] = []
    before_an_answer: list[int] = []

    def told(count: int) -> None:
        moved.append(count)
        if fault_proxy.answered == answered:
            before_an_answer.append(count)

    store.size(put(store, b"the bucket is there"))
    with pytest.raises(ContentMissing):  # as a put of this size asks first
        store.size(key_of(data))
    answered = fault_proxy.answered + (1 if size <= PART else 2)
    fault_proxy.fault = Fault(Kind.SLOW, "PUT", rate=1 << 20)
    store.put(key_of(data), chunks_of(data), size, moved=told)
    assert len(before_an_answer) >= 10
    assert sum(moved) == size


@pytest.mark.parametrize("data", [SMALL * 1000, LARGE], ids=["one-put", "multipart"])
def test_a_store_that_takes_bytes_and_fails_shows_no_life(fault_proxy: FaultProxy, opened: Open, data: bytes) -> None:
    """What is sent again, by a retry or by another put, is not told as moved again: nothing has come further."""
    store = opened(fault_proxy.settings(store_part_size=PART, store_retries=1, store_concurrency=1))
    fault_proxy.fault = Fault(Kind.ANSWER, "PUT", status=503, code="SlowDown")
    key, moved, again = key_of(data), list[int](), list[int]()
    for heard in (moved, again):
        with pytest.raises(StoreUnavailable):
            store.put(key, chunks_of(data), len(data), moved=heard.append)
    assert 0 < sum(moved) <= min(len(data), PART)
    assert again == []
    fault_proxy.fault = None
    store.put(key, chunks_of(data), len(data), moved=again.append)
    assert sum(moved) + sum(again) == len(data)


def test_signing_is_not_moving(s3_server: S3Server, opened: Open) -> None:
    """Where nobody listens nothing is told as moved, though the bytes are read to be signed."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        store = opened(s3_server.settings(s3_endpoint=endpoint, store_retries=1))
        moved: list[int] = []
        data = SMALL * 1000
        with pytest.raises(StoreUnavailable):
            store.put(key_of(data), chunks_of(data), len(data), moved=moved.append)
        assert moved == []


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one-put", "multipart"])
@pytest.mark.parametrize("code", ["NoSuchBucket", "NoSuchKey"])
def test_a_write_never_misses_content(fault_proxy: FaultProxy, opened: Open, code: str, data: bytes) -> None:
    """Whatever a write is told is missing, it is refused at once, and the message names the store's bucket."""
    settings = fault_proxy.settings(store_part_size=PART)
    store = opened(settings)
    fault_proxy.fault = Fault(Kind.ANSWER, "PUT" if data is SMALL else "POST", status=404, code=code)
    with pytest.raises(StoreRefused, match="create the bucket") as caught:
        put(store, data)
    assert settings.store in str(caught.value)
    assert fault_proxy.hits == 1


def test_a_bucket_that_is_not_there(s3_server: S3Server, opened: Open) -> None:
    """A server without that bucket refuses small and large content and the probe, naming the bucket."""
    store = opened(s3_server.settings(store="s3://no-such-bucket/prefix", store_part_size=PART))
    for ask in (lambda: put(store, SMALL), lambda: put(store, LARGE), store.probe):
        with pytest.raises(StoreRefused, match="s3://no-such-bucket/prefix"):
            ask()


def test_wrong_bytes_from_the_store(fault_proxy: FaultProxy, opened: Open) -> None:
    """One wrong byte on the way back is ContentMismatch (EIO), and not asked for again."""
    store = opened(fault_proxy.settings())
    key = put(store, SMALL)
    fault_proxy.fault = Fault(Kind.CORRUPT, "GET")
    with pytest.raises(ContentMismatch) as caught:
        store.fetch(key, len(SMALL))
    assert caught.value.errno == errno.EIO
    assert fault_proxy.hits == 1


def test_an_answer_that_ends_early(fault_proxy: FaultProxy, opened: Open) -> None:
    """A body that ends before its length is asked for again, never taken for the whole."""
    data = content(3 * BLOCK)
    store = opened(fault_proxy.settings())
    key = put(store, data)
    fault_proxy.fault = Fault(Kind.SHORT, "GET", after=10, times=2)
    assert store.fetch(key, len(data)) == data
    assert fault_proxy.hits == 2
    fault_proxy.fault = Fault(Kind.SHORT, "GET", after=10)
    with pytest.raises(StoreUnavailable):
        store.fetch(key, len(data))


def test_cut_for_good_in_mid_upload_leaves_nothing(fault_proxy: FaultProxy, s3_server: S3Server, opened: Open) -> None:
    """An upload that fails after its retries is aborted: no object, no multipart upload, nothing on the disk."""
    settings = fault_proxy.settings(store_part_size=PART, store_retries=1)
    store = opened(settings)
    fault_proxy.fault = Fault(Kind.CUT, "PUT", "partNumber=4", after=100_000)
    moved: list[int] = []
    with pytest.raises(StoreUnavailable, match="part 4"):
        store.put(key_of(LARGE), chunks_of(LARGE), len(LARGE), moved=moved.append)
    assert sum(moved) < len(LARGE)
    fault_proxy.fault = None
    assert store.abort_stale(0) == 0
    assert s3_server.objects(settings) == []


def test_what_could_not_be_aborted_is_found_later(
    fault_proxy: FaultProxy, s3_server: S3Server, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """When the abort fails too, the first error counts, the log says so, and abort_stale removes what is left."""
    settings = fault_proxy.settings(store_part_size=PART, store_retries=0)
    store = opened(settings)
    assert store.abort_stale(0) == 0
    fault_proxy.fault = Fault(Kind.ANSWER, match="uploadId=", status=403, code="AccessDenied")
    with pytest.raises(StoreRefused, match="right to get, put, list"):
        put(store, LARGE)
    assert "an unfinished upload is left behind" in caplog.text
    fault_proxy.fault = None
    assert store.abort_stale(3600) == 0
    assert store.abort_stale(0) == 1
    assert store.abort_stale(0) == 0
    assert s3_server.objects(settings) == []


def test_the_answer_to_complete_is_lost(fault_proxy: FaultProxy, s3_server: S3Server, opened: Open) -> None:
    """A completed upload whose answer is lost counts as stored, though the server knows the upload no more."""
    settings = fault_proxy.settings(store_part_size=PART, store_retries=1)
    store = opened(settings)
    fault_proxy.fault = Fault(Kind.LOSE_ANSWER, "POST", "uploadId=", times=1)
    key = put(store, LARGE)
    assert fault_proxy.hits == 1
    assert s3_server.objects(settings) == the_object(settings, key)


def test_a_part_is_invalid_while_the_server_completes(fault_proxy: FaultProxy, opened: Open) -> None:
    """A server that is still at a completion knows the parts no more (seen of rclone): it is asked again."""
    store = opened(fault_proxy.settings(store_part_size=PART, store_retries=4))
    fault_proxy.fault = Fault(Kind.ANSWER, "POST", "uploadId=", times=2, status=400, code="InvalidPart")
    key = put(store, LARGE)
    assert fault_proxy.hits == 2
    assert store.fetch(key, len(LARGE)) == LARGE


@pytest.mark.parametrize("kind", [Kind.HANG, Kind.RESET])
def test_stop_ends_requests_and_pauses(fault_proxy: FaultProxy, opened: Open, kind: Kind) -> None:
    """`stop` ends an upload in a request that hangs, and in the pauses between a hundred retries."""
    store = opened(fault_proxy.settings(store_timeout=3600.0, store_retries=100, store_part_size=PART))
    stopped = threading.Event()
    fault_proxy.fault = Fault(kind, "PUT")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(store.put, key_of(LARGE), chunks_of(LARGE), len(LARGE), moved=None, stop=stopped.is_set)
        fault_proxy.wait_for_hits(2)
        stopped.set()
        with pytest.raises(UploadAbandoned):
            future.result(60)
    fault_proxy.fault = None
    assert store.abort_stale(0) == 0


def test_our_retries_are_the_only_ones(fault_proxy: FaultProxy, opened: Open) -> None:
    """One request that fails is sent store-retries + 1 times; where the connection is lost, aiohttp may double that."""
    store = opened(fault_proxy.settings(store_retries=3))
    for fault, most in ((Fault(Kind.ANSWER, status=503, code="SlowDown"), 4), (Fault(Kind.RESET), 8)):
        fault_proxy.fault = fault
        with pytest.raises(StoreUnavailable):
            put(store, SMALL)
        assert 4 <= fault_proxy.hits <= most


def test_missing_content_is_asked_for_once(fault_proxy: FaultProxy, opened: Open) -> None:
    """Content that is not there is no temporary failure."""
    store = opened(fault_proxy.settings())
    fault_proxy.fault = Fault(Kind.SLOW, "HEAD", rate=1 << 30)  # counts
    with pytest.raises(ContentMissing):
        store.size(key_of(b"nothing"))
    assert fault_proxy.hits == 1


def test_wrong_credentials(s3_server: S3Server, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that the server does not know are refused, by a message that says what to check."""
    settings = s3_server.settings()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-it")
    store = opened(settings)
    with pytest.raises(StoreRefused, match="check the credentials"):
        put(store, SMALL)
    with pytest.raises(StoreRefused, match="credentials"):  # a HEAD has no body to say why
        store.size(key_of(SMALL))


def test_no_credentials(s3_server: S3Server, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials nothing is sent, and the error says so."""
    settings = s3_server.settings()
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreRefused, match=r"[Cc]redentials"):
        put(opened(settings), SMALL)


def test_credentials_of_a_profile(
    s3_server: S3Server, opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`s3-profile` takes the credentials of that profile; one that does not exist is named."""
    settings = s3_server.settings(s3_profile="team")
    shared = tmp_path_factory.mktemp("aws") / "credentials"
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    with monkeypatch.context() as patch:
        lines = [f"{name.lower()} = {os.environ[name]}" for name in names]
        shared.write_text("\n".join(["[team]", *lines, ""]))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
        for name in names:
            patch.delenv(name)
        store = opened(settings)
        assert store.fetch(put(store, SMALL), len(SMALL)) == SMALL
        with pytest.raises(InvalidSetting, match="s3-profile is 'other'"):
            put(opened(s3_server.settings(s3_profile="other")), SMALL)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one-put", "multipart"])
def test_encryption_is_asked_for(fault_proxy: FaultProxy, opened: Open, data: bytes) -> None:
    """SSE-KMS with its key id goes along where an object begins, whether in one request or in parts."""
    settings = fault_proxy.settings(store_part_size=PART, s3_sse="aws:kms", s3_sse_kms_key_id="key-7")
    put(opened(settings), data)
    method, mark = ("PUT", "") if data is SMALL else ("POST", "uploads")
    heads = [request.headers for request in fault_proxy.seen if request.method == method and mark in request.path]
    asked = [
        (head.get("x-amz-server-side-encryption"), head.get("x-amz-server-side-encryption-aws-kms-key-id"))
        for head in heads
    ]
    assert ("aws:kms", "key-7") in asked
