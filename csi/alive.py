"""Whether the driver's process works, which is all that restarting it could mend: holder and mounter are Probe's."""

from __future__ import annotations

import time

import grpc

from csi.logs import Answering
from csi.proto import csi_pb2, csi_pb2_grpc

_SECONDS = 5.0
"""For an answer that takes no work."""
_BUSY = 150.0
"""Seconds within which some request ends, if the process works at all: the longest waits end before."""


class Alive:
    """Asks the driver at its own socket. One whose every thread waits, say for a mounter, does not answer and is alive
    all the same, as long as requests end."""

    def __init__(self, socket: str, answering: Answering) -> None:
        self._target = f"unix:{socket}"
        self._answering = answering

    def __call__(self) -> tuple[bool, dict[str, str]]:
        """Whether it is alive, and what it did."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        try:
            with grpc.insecure_channel(self._target, options) as channel:
                csi_pb2_grpc.IdentityStub(channel).GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            since = time.monotonic() - self._answering.ended
            if since < _BUSY:
                return True, {"driver": f"busy: a request ended {since:.0f} s ago"}
            return False, {"driver": f"no request has ended for {since:.0f} s, and it does not answer: {error}"}
        return True, {"driver": "answers"}
