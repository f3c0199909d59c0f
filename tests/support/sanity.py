"""csi-sanity from its published Go module, and the stub controller by which it can publish volumes at all."""

from __future__ import annotations

import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from csi.proto import csi_pb2
from tests.cluster.machine import golang

MODULE = Path(__file__).parent.parent / "conformance" / "csi"


def program() -> Path:
    """csi-sanity, built if there is none yet. Raises ClusterError with what Go printed."""
    text = (MODULE / "go.mod").read_text()
    version = re.search(r"csi-test/v5 (v\S+)", text)
    assert version is not None
    found = golang.Program("csi-sanity", MODULE, "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity", version[1])
    golang.build([found])
    return found.path


class _Forwarding(grpc.GenericRpcHandler):
    """Hands every request of Identity and Node to the driver as it is, and answers for a controller itself."""

    def __init__(self, channel: grpc.Channel, context: Mapping[str, str]) -> None:
        self._channel = channel
        self._context = context
        self._volumes: dict[str, csi_pb2.Volume] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method."""
        method = str(handler_call_details.method)
        own: dict[str, tuple[Any, Callable[..., Any]]] = {
            "/csi.v1.Identity/GetPluginCapabilities": (csi_pb2.GetPluginCapabilitiesRequest, self._capabilities),
            "/csi.v1.Controller/ControllerGetCapabilities": (
                csi_pb2.ControllerGetCapabilitiesRequest,
                self._controller_capabilities,
            ),
            "/csi.v1.Controller/CreateVolume": (csi_pb2.CreateVolumeRequest, self._create),
            "/csi.v1.Controller/DeleteVolume": (csi_pb2.DeleteVolumeRequest, self._delete),
            "/csi.v1.Controller/ValidateVolumeCapabilities": (
                csi_pb2.ValidateVolumeCapabilitiesRequest,
                self._validate,
            ),
        }
        if method in own:
            kind, answer = own[method]
            return grpc.unary_unary_rpc_method_handler(
                answer, kind.FromString, lambda message: message.SerializeToString()
            )
        if method.startswith("/csi.v1.Controller/"):
            return None

        def forward(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                ask: Any = self._channel.unary_unary(method)
                answer: bytes = ask(request, timeout=60)
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                context.abort(error.code(), error.details() or "")
            return answer

        return grpc.unary_unary_rpc_method_handler(forward)

    def _capabilities(self, request: Any, context: grpc.ServicerContext) -> csi_pb2.GetPluginCapabilitiesResponse:
        service = csi_pb2.PluginCapability.Service(type=csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE)
        return csi_pb2.GetPluginCapabilitiesResponse(capabilities=[csi_pb2.PluginCapability(service=service)])

    def _controller_capabilities(
        self, request: Any, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        rpc = csi_pb2.ControllerServiceCapability.RPC(type=csi_pb2.ControllerServiceCapability.RPC.CREATE_DELETE_VOLUME)
        return csi_pb2.ControllerGetCapabilitiesResponse(capabilities=[csi_pb2.ControllerServiceCapability(rpc=rpc)])

    def _create(
        self, request: csi_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.CreateVolumeResponse:
        if not request.name or not request.volume_capabilities:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "name or capabilities are missing")
        size = request.capacity_range.required_bytes
        known = self._volumes.get(request.name)
        if known is not None and known.capacity_bytes != size:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "of another size")
        volume = known or csi_pb2.Volume(
            volume_id=f"csi-{uuid.uuid4().hex}", capacity_bytes=size, volume_context=dict(self._context)
        )
        self._volumes[request.name] = volume
        return csi_pb2.CreateVolumeResponse(volume=volume)

    def _delete(
        self, request: csi_pb2.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.DeleteVolumeResponse:
        if not request.volume_id:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "volume_id is missing")
        for name, volume in list(self._volumes.items()):
            if volume.volume_id == request.volume_id:
                del self._volumes[name]
        return csi_pb2.DeleteVolumeResponse()

    def _validate(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        if not request.volume_id or not request.volume_capabilities:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "volume_id or capabilities are missing")
        if request.volume_id not in {volume.volume_id for volume in self._volumes.values()}:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such volume")
        confirmed = csi_pb2.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_capabilities=request.volume_capabilities
        )
        return csi_pb2.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)


@contextmanager
def with_controller(driver: Path, context: Mapping[str, str], socket: Path) -> Iterator[None]:
    """Listen at a socket: the driver, and a controller whose volumes have these attributes."""
    server = grpc.server(ThreadPoolExecutor(4))
    with grpc.insecure_channel(f"unix:{driver}") as channel:
        server.add_generic_rpc_handlers((_Forwarding(channel, context),))
        server.add_insecure_port(f"unix:{socket}")
        server.start()
        try:
            yield
        finally:
            server.stop(5).wait(10)


@dataclass(frozen=True)
class Spec:
    """One spec: its name, `passed`, `skipped`, `pending` or else, and why it was not run."""

    name: str
    status: str
    why: str


def specs(report: Path) -> list[Spec]:
    """What a JUnit report of Ginkgo tells."""
    found = []
    for case in ET.parse(report).getroot().iter("testcase"):
        if case.get("name", "").startswith("[It]"):
            skipped = case.find("skipped")
            why = "" if skipped is None else skipped.get("message", "").removeprefix("skipped - ")
            if case.get("status") == "pending":
                why = "switched off in csi-sanity itself"
            found.append(Spec(case.get("name", "")[5:], case.get("status", ""), why))
    return found
