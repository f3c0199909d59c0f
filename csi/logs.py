"""Every request is logged once, with tokens and secrets left out, and answered with the status code of its error."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from csi.metrics import DriverMetrics
from csi.names import KUBELET_KEYS
from csi.proto import csi_pb2
from csi.status import code_of
from resultsfs.errors import ResultsError

log = logging.getLogger(__name__)

REDACTED = "(redacted)"
_QUIET = frozenset({"Probe", "NodeGetCapabilities", "NodeGetVolumeStats", "GetPluginInfo", "GetPluginCapabilities"})
"""Asked every few seconds: logged at the level DEBUG while they succeed."""


def loggable(message: Message) -> dict[str, Any]:
    """A message's fields that are set, secrets by the specification's own mark (`csi_secret`) left out.

    So is everything of the kubelet's that has a token in its name. Fields that this version of the specification
    does not know are not shown at all.
    """
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.GetOptions().Extensions[csi_pb2.csi_secret]:
            found[field.name] = REDACTED
        elif isinstance(value, Message):
            found[field.name] = loggable(value)
        elif isinstance(value, Mapping):
            found[field.name] = {key: REDACTED if _is_token(key) else text for key, text in value.items()}
        elif isinstance(value, str | int | float | bool):
            found[field.name] = value
        else:
            found[field.name] = [loggable(item) if isinstance(item, Message) else item for item in value]
    return found


def _is_token(key: str) -> bool:
    return key.startswith(KUBELET_KEYS) and "token" in key.lower()


class Answering(grpc.ServerInterceptor):
    """Around every request: the log line, the time it took, the status code of what was raised."""

    def __init__(self, metrics: DriverMetrics) -> None:
        self._metrics = metrics
        self.ended = time.monotonic()
        """When the last request was answered; at first, when this began."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of a request; gRPC itself answers for methods that nobody offers."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = str(handler_call_details.method).rpartition("/")[2]
        behaviour = handler.unary_unary

        def answer(request: Message, context: grpc.ServicerContext) -> Any:
            began = time.monotonic()
            try:
                response = behaviour(request, context)
            except Exception as error:
                code = code_of(error)
                if code is grpc.StatusCode.INTERNAL and not isinstance(error, ResultsError):
                    log.exception("%s failed unexpectedly", method)
                self._note(method, code, began, request, str(error))
                context.abort(code, str(error))
            self._note(method, grpc.StatusCode.OK, began, request, None)
            return response

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    def _note(self, method: str, code: grpc.StatusCode, began: float, request: Message, error: str | None) -> None:
        self.ended = time.monotonic()
        seconds = self.ended - began
        self._metrics.requests.labels(method, code.name).observe(seconds)
        level = logging.INFO if error is None else logging.WARNING
        if error is None and method in _QUIET:
            level = logging.DEBUG
        if log.isEnabledFor(level):
            fields = json.dumps(loggable(request), ensure_ascii=True)
            told = "" if error is None else f": {error}"
            log.log(level, "%s %s %.1f ms %s%s", method, code.name, seconds * 1000, fields, told)
