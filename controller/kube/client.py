"""Requests to the API server. Safe to use from several threads."""

from __future__ import annotations

import email.utils
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from controller.kube.endpoint import Endpoint
from controller.kube.errors import ApiUnavailable, error_of
from controller.kube.resources import Resource, Tree

PAGE = 500
"""Objects in one answer to a list."""
TIMEOUT = 10.0
"""Seconds that one request may take; a watch says its own."""
SLACK = 10.0
"""Seconds after which a watch that should have ended has stalled: its connection is dead, or its server."""

# A server, or a network before it, that is gone without a word: known after some 20 s, and not by the next request.
_KEEP_ALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2))
        if hasattr(socket, name)
    ),
]
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
# A connection that the server has closed meanwhile is no failure; what was sent on it is sent again only where
# that changes nothing (urllib3 repeats idempotent methods alone).
_RETRIES = urllib3.Retry(total=None, connect=2, read=1, redirect=0, status=0, other=0, backoff_factor=0.05)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list as it was at one moment: its resource version, and the API server's clock."""

    items: list[Tree]
    version: str
    date: datetime | None


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """`ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`, and the object."""

    type: str
    object: Tree


class Kube:
    """One API server. All methods raise ApiError; ApiUnavailable where asking again can help."""

    def __init__(self, endpoint: Endpoint, timeout: float = TIMEOUT) -> None:
        self.endpoint = endpoint
        self._timeout = timeout
        self._local = threading.local()
        self._pool = urllib3.PoolManager(
            maxsize=16, retries=_RETRIES, ssl_context=endpoint.tls, socket_options=_KEEP_ALIVE
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    @contextmanager
    def until(self, moment: float) -> Iterator[None]:
        """Requests that this thread makes inside fail as ApiUnavailable by that moment of time.monotonic, or soon after.

        The first try of a request gets half of what is left: its connection may be one that died silently.
        """
        self._local.until = moment
        try:
            yield
        finally:
            del self._local.until

    def _limit(self, what: str, limit: float) -> float:
        """Seconds for one try of a request."""
        until: float | None = getattr(self._local, "until", None)
        if until is None:
            return limit
        left = until - time.monotonic()
        if left <= 0:
            raise ApiUnavailable(f"{what}: the API server did not answer in time")
        return min(limit, left / 2)

    def get(self, resource: Resource, namespace: str | None, name: str, *, timeout: float | None = None) -> Tree:
        """One object as etcd has it now. Raises NotFound."""
        return self._json("GET", resource.path(namespace, name), timeout=timeout)

    def get_metadata(self, resource: Resource, namespace: str | None, name: str) -> Tree:
        """An object's metadata alone. Raises NotFound."""
        return self._json("GET", resource.path(namespace, name), accept=_METADATA)

    def create(self, resource: Resource, namespace: str | None, tree: Tree) -> Tree:
        """Make an object. Raises Conflict when there is one of that name."""
        return self._json("POST", resource.path(namespace), body=tree)

    def update(self, resource: Resource, namespace: str | None, tree: Tree) -> Tree:
        """Replace an object. Raises Conflict when its resource version is not the latest."""
        return self._json("PUT", resource.path(namespace, tree["metadata"]["name"]), body=tree)

    def patch(self, resource: Resource, namespace: str | None, name: str, tree: Tree) -> Tree:
        """Merge a tree into an object (RFC 7386)."""
        return self.merge(resource.path(namespace, name), tree)

    def merge(self, path: str, tree: Tree) -> Tree:
        """Merge a tree into what is at a path, for example a subresource."""
        return self._json("PATCH", path, body=tree, content_type="application/merge-patch+json")

    def json_patch(self, resource: Resource, namespace: str | None, name: str, operations: list[Tree]) -> Tree:
        """Change an object (RFC 6902)."""
        path = resource.path(namespace, name)
        return self._json("PATCH", path, body=operations, content_type="application/json-patch+json")

    def delete(self, resource: Resource, namespace: str | None, name: str) -> Tree:
        """Delete an object; what it owns goes in the background. Raises NotFound."""
        return self._json("DELETE", resource.path(namespace, name), query={"propagationPolicy": "Background"})

    def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        metadata_only: bool = False,
        labels: str | None = None,
    ) -> Listing:
        """All objects as etcd has them now, never as a cache had them once (no resource version is given)."""
        items: list[Tree] = []
        version, date = "", None
        for page in self.pages(resource, namespace, metadata_only=metadata_only, labels=labels):
            items += page.items
            version, date = page.version, date or page.date
        return Listing(items, version, date)

    def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        metadata_only: bool = False,
        labels: str | None = None,
    ) -> Iterator[Listing]:
        """As `list`, PAGE objects at a time; all pages are of one moment. Raises Gone when that was too long ago."""
        query = {"limit": str(PAGE)}
        if labels is not None:
            query["labelSelector"] = labels
        while True:
            response = self._request(
                "GET", resource.path(namespace), query=query, accept=_METADATA_LIST if metadata_only else None
            )
            page = _tree(response)
            metadata = page.get("metadata") or {}
            yield Listing(page.get("items") or [], metadata.get("resourceVersion", ""), _date(response))
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    def watch(
        self, resource: Resource, version: str, *, timeout: float, metadata_only: bool = False
    ) -> Iterator[WatchEvent]:
        """Changes since a list's resource version; ends after `timeout` seconds, also where the server says nothing.

        Raises Gone when that version is too old.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(timeout)),
        }
        response = self._request(
            "GET",
            resource.path(),
            query=query,
            accept=_METADATA if metadata_only else None,
            stream=True,
            timeout=timeout + SLACK,
        )
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise error_of(int(status.get("code", 500)), f"watch {resource.plural}: {status.get('message')}")
                yield WatchEvent(event["type"], event["object"])
        except urllib3.exceptions.ReadTimeoutError:
            raise ApiUnavailable(f"watch {resource.plural}: nothing came for {timeout + SLACK:.0f} s") from None
        except (HTTPError, ValueError) as error:
            raise ApiUnavailable(f"watch {resource.plural}: {error}") from None
        finally:
            response.close()
            response.release_conn()

    def post(self, path: str, tree: Tree) -> Tree:
        """What the API server answers to a question that is posted to a path, for example a review."""
        return self._json("POST", path, body=tree)

    def raw(self, path: str) -> bytes:
        """What the API server answers at a path, for example `/readyz`."""
        return self._request("GET", path).data

    def _json(self, method: str, path: str, **options: Any) -> Tree:
        return _tree(self._request(method, path, **options))

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str | None = None,
        stream: bool = False,
        timeout: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": accept or "application/json", "User-Agent": "resultsfs-controller"}
        authorization = self.endpoint.authorization()
        if authorization is not None:
            headers["Authorization"] = authorization
        data = None
        if body is not None:
            data = json.dumps(body, separators=(",", ":")).encode()
            headers["Content-Type"] = content_type
        limit = self._limit(f"{method} {path}", timeout or self._timeout)
        try:
            response = self._pool.request(
                method,
                self.endpoint.url + path,
                fields=query,
                body=data,
                headers=headers,
                preload_content=not stream,
                timeout=urllib3.Timeout(connect=min(limit / 2, 5.0), read=limit),
            )
        except HTTPError as error:
            raise ApiUnavailable(f"{method} {path}: {error}") from None
        if response.status >= 400:
            message = f"{method} {path}: {response.status} {_message(response)}"
            response.release_conn()
            raise error_of(response.status, message)
        return response


def _tree(response: urllib3.BaseHTTPResponse) -> Tree:
    try:
        tree = json.loads(response.data)
    except ValueError:
        raise ApiUnavailable(f"{response.url}: the answer is not JSON") from None
    if not isinstance(tree, dict):
        raise ApiUnavailable(f"{response.url}: the answer is no object")
    return tree


def _message(response: urllib3.BaseHTTPResponse) -> str:
    try:
        return str(json.loads(response.data)["message"])
    except (ValueError, KeyError, TypeError):
        return response.data[:200].decode("utf-8", "replace")


def _date(response: urllib3.BaseHTTPResponse) -> datetime | None:
    text = response.headers.get("Date")
    return None if text is None else email.utils.parsedate_to_datetime(text).astimezone(UTC)


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(1 << 16, decode_content=True):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)
