"""GET and HEAD below /v1: results of a run, or the content of one."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from controller.api import openapi, query, ranges, results
from controller.api.access import Access, Caller
from controller.api.audit import Access as Audit
from controller.api.errors import Problem, problem_of
from controller.api.limits import Rate, Slots
from controller.api.results import Result
from controller.api.streamed import PATIENCE, PIECE, Streamed
from controller.kube.client import Kube
from controller.kube.errors import NotFound
from controller.kube.resources import TASK_RUNS
from controller.metrics import Metrics
from controller.naming import KINDS, made_by
from resultsfs import store_names
from resultsfs.errors import ResultsError
from resultsfs.record import ResultType
from resultsfs.resolve import StoredContent
from resultsfs.settings import Settings
from resultsfs.store import Key, Store
from resultsfs.value import encoded, original, single_reference

ASSEMBLED_LIMIT = 8 << 20
"""Bytes of an array's or object's content, which is put together in memory, one at a time."""
ASSEMBLING = 14
"""Bytes of memory that one of those takes at most meanwhile: text of four bytes a character, several times."""
WAITING = 4
"""Contents that are searched, or that were put together: those that are sent, the one at work, and those that wait."""
THREADS = 16
"""Requests that are worked on at the same time, beside what is streamed."""
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Content:
    """A result's content as it is sent: its size and SHA-256 (hex), and what gives the bytes of a span.

    `key`: where it lies alone in the store.
    """

    size: int
    sha256: str
    media_type: str
    read: Callable[[ranges.Span | None], Generator[bytes, None, None]]
    key: Key | None = None

    @property
    def etag(self) -> str:
        """The strong validator: content is its digest."""
        return f'"{self.sha256}"'


class Api:
    """The API's routes."""

    def __init__(
        self,
        kube: Kube,
        store: Callable[[], Store],
        settings: Callable[[], Settings],
        metrics: Metrics,
        patience: float = PATIENCE,
    ) -> None:
        self._kube = kube
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._patience = patience
        self._access = Access(kube)
        self._callers = Rate(lambda: settings().api_request_rate)
        self._peers = Rate(lambda: settings().api_request_rate)
        self._downloads = Slots(lambda: settings().api_downloads, "streamed (api-downloads)")
        self._heavy = Slots(lambda: WAITING, "searched or put together")
        self._alone = anyio.CapacityLimiter(1)
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._streaming = anyio.CapacityLimiter(256)

    def routes(self) -> list[Route]:
        """For the application."""
        run = "/v1/namespaces/{namespace}/{kind}/{name}/results"
        return [
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route(run, self._serve, methods=["GET", "HEAD"]),
            Route(run + "/{result}", self._serve, methods=["GET", "HEAD"]),
        ]

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(openapi.document())

    async def _serve(self, request: Request) -> Response:
        audit = Audit(request.method, request.url.path, request.client.host if request.client else "")
        audit.range = request.headers.get("range", "")
        try:
            response = await self._answer(request, audit)
        except Problem as problem:
            response = _refused(problem)
        except ResultsError as error:
            response = _refused(problem_of(error))
        audit.status = response.status_code
        self._metrics.api.labels(str(response.status_code)).inc()
        if not isinstance(response, StreamingResponse):
            audit.bytes = 0 if request.method == "HEAD" else len(response.body)
            if response.status_code >= 400:
                audit.error = bytes(response.body).decode("utf-8", "replace").strip()
            audit.tell()
        return response

    async def _answer(self, request: Request, audit: Audit) -> Response:
        kind, namespace, name = (request.path_params[key] for key in ("kind", "namespace", "name"))
        wanted = request.path_params.get("result")
        audit.namespace, audit.kind, audit.name, audit.result = namespace, kind, name, wanted or ""
        resource = KINDS.get(kind)
        if resource is None or not store_names.is_namespace(namespace) or not store_names.is_taskrun(name):
            raise Problem(404, "there is nothing of that name")
        caller = await self._caller(request, audit)
        await self._work(self._access.check, caller, resource, namespace, name)
        try:
            run = await self._work(self._kube.get, resource, namespace, name)
        except NotFound:
            raise Problem(404, f"there is no {resource.kind} {namespace}/{name}") from None
        found = results.results_of(run)
        store = self._store()
        if wanted is None:
            task_run = name if resource is TASK_RUNS else None
            described = await self._work(results.described, found, store, namespace, task_run)
            body = {"kind": resource.kind, "namespace": namespace, "name": name, "uid": run["metadata"]["uid"]}
            children = [asdict(made) for made in made_by(run)]
            return JSONResponse({**body, "results": described, "children": children}, headers=_COMMON)
        result = next((result for result in found if result.name == wanted), None)
        if result is None:
            names = ", ".join(result.name for result in found) or "none"
            raise Problem(404, f"{resource.kind} {namespace}/{name} has no result {wanted!r}; there are: {names}")
        path = request.query_params.get("jsonpath")
        with ExitStack() as slots:
            assembled = result.spilled and single_reference(result.value) is None
            if assembled or path is not None:  # both take memory until the answer is sent
                slots.enter_context(self._heavy.one(caller.name))
            limiter = self._alone if assembled else self._limiter
            content = await anyio.to_thread.run_sync(_content, result, store, namespace, limiter=limiter)
            if path is not None:
                return await self._matches(request, content, path, audit, slots)
            return await self._send(request, caller, content, store, audit, slots)

    async def _caller(self, request: Request, audit: Audit) -> Caller:
        # An unknown token is a question to the API server too: whoever has tried many is refused by address, unasked.
        unasked = partial(self._peers.check, audit.peer)
        try:
            caller = await self._work(self._access.caller, request.headers.get("authorization", ""), unasked)
        except Problem as problem:
            if problem.status == 401:
                self._peers.take(audit.peer)
            raise
        audit.user = caller.name
        self._callers.take(caller.name)
        return caller

    async def _send(
        self, request: Request, caller: Caller, content: Content, store: Store, audit: Audit, slots: ExitStack
    ) -> Response:
        headers = {**_COMMON, "ETag": content.etag, "Accept-Ranges": "bytes", "Repr-Digest": _digest(content.sha256)}
        if ranges.unchanged(request.headers.get("if-none-match"), content.etag):
            return Response(status_code=304, headers=headers)
        asked = request.headers.get("range") if request.method == "GET" else None  # RFC 9110, 14.2
        part = ranges.span(asked, request.headers.get("if-range"), content.etag, content.size)
        span = part or ranges.Span(0, content.size)
        status = 200 if part is None else 206
        headers["Content-Length"] = str(span.length)
        if part is not None:
            headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{content.size}"
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=content.media_type)
        settings = self._settings()
        if settings.api_redirect and content.key is not None:
            url = await self._work(store.presigned, content.key, int(settings.api_redirect_expiry))
            if url is not None:
                return Response(status_code=307, headers={**_COMMON, "Location": url})
        slots.enter_context(self._downloads.one(caller.name))
        return self._streamed(content.read(part), status, headers, content.media_type, audit, slots)

    def _streamed(
        self,
        chunks: Generator[bytes, None, None],
        status: int,
        headers: Mapping[str, str],
        media_type: str,
        audit: Audit,
        slots: ExitStack,
    ) -> Response:
        kept = slots.pop_all()

        async def end() -> None:
            await anyio.to_thread.run_sync(chunks.close, limiter=self._streaming)
            kept.close()
            self._metrics.api_bytes.inc(audit.bytes)
            audit.tell()

        def stalled() -> None:
            audit.error = f"broken off: the caller took nothing for {self._patience:g} s"

        body = self._pieces(chunks, audit)
        return Streamed(body, status, headers, media_type, self._patience, stalled, end)

    async def _matches(self, request: Request, content: Content, path: str, audit: Audit, slots: ExitStack) -> Response:
        if content.size > query.CONTENT_LIMIT:
            raise Problem(
                413, f"the content has {content.size} bytes, of which at most {query.CONTENT_LIMIT} can be searched"
            )

        def search() -> bytes:
            return query.matches(b"".join(content.read(None)), path)

        found = await anyio.to_thread.run_sync(search, limiter=self._alone)
        if request.method == "HEAD":
            return Response(found, media_type="application/json", headers=_COMMON)
        headers = {**_COMMON, "Content-Length": str(len(found))}
        return self._streamed(_once(found), 200, headers, "application/json", audit, slots)

    async def _pieces(self, chunks: Generator[bytes, None, None], audit: Audit) -> AsyncIterator[bytes]:
        """What is sent; a failure on the way breaks the connection off, so that half a content never looks whole."""
        try:
            while (chunk := await anyio.to_thread.run_sync(next, chunks, None, limiter=self._streaming)) is not None:
                for start in range(0, len(chunk), PIECE):
                    piece = chunk[start : start + PIECE]
                    yield piece
                    audit.bytes += len(piece)
        except ResultsError as error:
            audit.error = str(error)
            raise

    async def _work(self, action: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(partial(action, *arguments), limiter=self._limiter)


_COMMON = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff", "Vary": "Authorization"}


def _content(result: Result, store: Store, namespace: str) -> Content:
    """What a result's value stands for. Raises StoreError, ResolveError."""
    reference = single_reference(result.value)
    media_type = "application/octet-stream" if result.type is ResultType.STRING else "application/json"
    if reference is not None:
        key = Key.of(namespace, reference)
        size = store.size(key)

        def read(span: ranges.Span | None) -> Generator[bytes, None, None]:
            # A part proves nothing; whoever puts parts together has the digest.
            return store.verified(key, size) if span is None else store.stream(key, span.start, span.end)

        return Content(size, key.sha256, media_type, read, key)
    label = f"result {result.name}"
    data = encoded(original(result.value, StoredContent(store, namespace), label, ASSEMBLED_LIMIT))

    def slice_(span: ranges.Span | None) -> Generator[bytes, None, None]:
        yield data if span is None else data[span.start : span.end]

    return Content(len(data), hashlib.sha256(data).hexdigest(), media_type, slice_)


def _once(data: bytes) -> Generator[bytes, None, None]:
    yield data


def _refused(problem: Problem) -> Response:
    return JSONResponse({"error": problem.message}, problem.status, headers={**_COMMON, **problem.headers})


async def no_route(request: Request, error: Exception) -> Response:
    """The answer where no route leads: as the API says everything else."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers={**_COMMON, **(error.headers or {})})


def _digest(sha256: str) -> str:
    """RFC 9530."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
