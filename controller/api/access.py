"""Who calls, and whether that user may `get` a run: asked of the API server, remembered for seconds."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from controller.api.errors import Problem
from controller.kube.client import Kube
from controller.kube.resources import ACCESS_REVIEWS, TOKEN_REVIEWS, Resource, Tree

LIFE = 10.0
"""Seconds for which an answer of the API server is remembered: a revoked right ends so soon."""
_REMEMBERED = 4096
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """A user as the API server knows it; `review` is what a SubjectAccessReview needs."""

    name: str
    key: str
    review: Tree


class _Cache(Generic[T]):
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: OrderedDict[Any, tuple[T, float]] = OrderedDict()

    def get(self, key: object, ask: Callable[[], T]) -> T:
        now = self._clock()
        with self._lock:
            if (known := self._found.get(key)) is not None and now < known[1]:
                return known[0]
        answer = ask()
        with self._lock:
            self._found[key] = answer, now + LIFE
            self._found.move_to_end(key)
            while len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return answer


class Access:
    """Asks the API server. Methods raise Problem, and ApiError where it does not answer. Thread-safe."""

    def __init__(self, kube: Kube, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._callers: _Cache[Caller | None] = _Cache(clock)
        self._allowed: _Cache[bool] = _Cache(clock)

    def caller(self, authorization: str, ask: Callable[[], None] = lambda: None) -> Caller:
        """The user whose bearer token is in an Authorization header. Raises Problem 401, and what `ask` does.

        `ask`: called before the API server is asked.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unknown("a bearer token is needed: Authorization: Bearer <token>")
        token = token.strip()
        # The token itself is never kept.
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found = self._callers.get(key, lambda: self._ask_who(token, ask))
        if found is None:
            raise _unknown("the API server does not know this token, or it has expired")
        return found

    def check(self, caller: Caller, resource: Resource, namespace: str, name: str) -> None:
        """Raise Problem 403 unless the caller may `get` that object; whether there is one is not told."""
        key = (caller.key, resource.plural, namespace, name)
        if not self._allowed.get(key, lambda: self._ask_whether(caller, resource, namespace, name)):
            raise Problem(403, f"{caller.name} may not get {resource.plural} {namespace}/{name}")

    def _ask_who(self, token: str, ask: Callable[[], None]) -> Caller | None:
        ask()
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = self._kube.create(TOKEN_REVIEWS, None, review).get("status") or {}
        user = status.get("user") or {}
        if not status.get("authenticated") or not user.get("username"):
            return None
        spec = {
            "user": user["username"],
            "uid": user.get("uid", ""),
            "groups": user.get("groups") or [],
            "extra": user.get("extra") or {},
        }
        digest = hashlib.sha256(repr(sorted(spec.items())).encode()).hexdigest()
        return Caller(user["username"], digest, spec)

    def _ask_whether(self, caller: Caller, resource: Resource, namespace: str, name: str) -> bool:
        attributes = {
            "namespace": namespace,
            "verb": "get",
            "group": resource.group,
            "version": resource.version,
            "resource": resource.plural,
            "name": name,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**caller.review, "resourceAttributes": attributes},
        }
        status = self._kube.create(ACCESS_REVIEWS, None, review).get("status") or {}
        return bool(status.get("allowed")) and not status.get("denied")


def _unknown(message: str) -> Problem:
    return Problem(401, message, {"WWW-Authenticate": 'Bearer realm="resultsfs"'})
