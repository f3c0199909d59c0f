"""The Identity service: which driver this is, and whether it can do its work."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

import resultsfs
from csi.holding import Holding
from csi.names import DRIVER
from csi.proto import csi_pb2, csi_pb2_grpc

log = logging.getLogger(__name__)


class Identity(csi_pb2_grpc.IdentityServicer):
    """Answers from what the holder and the server say; the store is the server's business, and is never fatal."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._told: bool | None = None

    def GetPluginInfo(self, request: csi_pb2.GetPluginInfoRequest, context: Any) -> csi_pb2.GetPluginInfoResponse:
        """Name and version."""
        return csi_pb2.GetPluginInfoResponse(name=DRIVER, vendor_version=resultsfs.__version__)

    def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: Any
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        """None: no controller service, no topology."""
        return csi_pb2.GetPluginCapabilitiesResponse()

    def Probe(self, request: csi_pb2.ProbeRequest, context: grpc.ServicerContext) -> csi_pb2.ProbeResponse:
        """Ready while the holder answers and a server serves what it holds.

        Not ready is no error: starting this process anew would not help.
        """
        try:
            ready = self._holding.serving()
            reason = "the mounter does not answer"
        except (ConnectionError, TimeoutError) as error:
            ready, reason = False, str(error)
        if ready != self._told:
            self._told = ready
            if ready:
                log.info("ready")
            else:
                log.warning("not ready: %s", reason)
        return csi_pb2.ProbeResponse(ready=BoolValue(value=ready))
