"""The webhooks as HTTP routes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from controller.admission import review
from controller.admission.review import Answer, Request, unavailable
from controller.identity import Identity
from controller.metrics import Metrics
from resultsfs.errors import InvalidDocument, ResultsError

PATIENCE = 8.0
"""Seconds from its coming within which a request is answered: the API server waits 10 (the chart's timeoutSeconds)."""
BODY_LIMIT = 8 << 20
"""Bytes of the largest review: an API server takes objects of 3 MiB at most, and a review repeats little."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Webhook:
    """One of them: what it is called in paths and metrics, and what answers by a moment of time.monotonic.

    `threads`: requests that are worked on at the same time; each waits for the API server or the store most of its
    time. They are its own, so that a slow store does not keep pods waiting.
    """

    name: str
    answer: Callable[[Request, float], Answer]
    threads: int


class Webhooks:
    """POST /mutate/<name>[/<token>]."""

    def __init__(self, identity: Identity, metrics: Metrics, webhooks: dict[str, Webhook]) -> None:
        self._identity = identity
        self._metrics = metrics
        self._webhooks = webhooks
        self._limiters = {webhook.name: anyio.CapacityLimiter(webhook.threads) for webhook in webhooks.values()}

    def routes(self) -> list[Route]:
        """For the application."""
        return [
            Route("/mutate/{path}", self._serve, methods=["POST"]),
            Route("/mutate/{path}/{token}", self._serve, methods=["POST"]),
        ]

    async def _serve(self, http: HttpRequest) -> Response:
        webhook = self._webhooks.get(http.path_params["path"])
        if webhook is None:
            return Response("no such webhook\n", 404)
        if not self._identity.admits(http.path_params.get("token", "")):
            return Response("this is not for you\n", 403)
        began = time.perf_counter()
        response = await self._respond(webhook, http)
        code = response.headers.get("x-admission-code", str(response.status_code))
        self._metrics.admission.labels(webhook.name, code).observe(time.perf_counter() - began)
        return response

    async def _respond(self, webhook: Webhook, http: HttpRequest) -> Response:
        until = time.monotonic() + PATIENCE
        body = b""
        async for chunk in http.stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                return Response(f"the review is larger than {BODY_LIMIT} bytes\n", 413)
        try:
            request = review.parse(body)
        except InvalidDocument as error:
            return Response(f"{error}\n", 400)
        del body
        try:
            answer = await anyio.to_thread.run_sync(
                _answer, webhook, request, until, limiter=self._limiters[webhook.name]
            )
        except ResultsError as error:
            # By the webhook's failure policy the API server decides what becomes of the object.
            _log.warning("%s %s/%s: no answer: %s", request.kind, request.namespace, request.label, error)
            return Response(f"{error}\n", 500)
        except Exception:  # noqa: BLE001  # a defect of ours is an answer too
            _log.exception("%s %s/%s: no answer", request.kind, request.namespace, request.label)
            return Response("internal error\n", 500)
        if not answer.allowed:
            _log.info(
                "%s %s/%s: refused, %d: %s", request.kind, request.namespace, request.label, answer.code, answer.message
            )
        return Response(
            review.render(request, answer),
            media_type="application/json",
            headers={"x-admission-code": str(answer.code)},
        )


def _answer(webhook: Webhook, request: Request, until: float) -> Answer:
    if time.monotonic() > until:  # nobody waits for it any more
        return unavailable(f"the controller had no time for it within {PATIENCE:.0f} s: too much was asked at once")
    return webhook.answer(request, until)
