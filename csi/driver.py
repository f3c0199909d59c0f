"""The driver: answers the kubelet. Needs no right but its user's over the kubelet's directory and two sockets."""

from __future__ import annotations

import logging
import os
import signal
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType

import grpc

from csi.alive import Alive
from csi.api import Access, Api
from csi.caretaker import Caretaker
from csi.holder import Holder
from csi.identity import Identity
from csi.locks import Locks
from csi.logs import Answering
from csi.metrics import DriverMetrics
from csi.node import Node
from csi.pods import PodHost
from csi.proto import csi_pb2_grpc
from csi.recorder import Recorder
from csi.targets import Targets
from csi.unserved import Unserved
from csi.volumes import Volumes
from csi.web import Web
from resultsfs.errors import InvalidSetting, NotSupported
from resultsfs.events import Event
from resultsfs.observer import Unobserved
from resultsfs.record import VolumeRecord

log = logging.getLogger(__name__)

_THREADS = 32
"""Requests answered at the same time; most of the time of each is waiting."""
_GRACE = 10.0
"""Seconds for requests to end."""


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """What the driver is started with; see `python -m csi driver --help`. `access` None: no Events are written."""

    endpoint: str
    node_id: str
    kubelet: str
    state: str
    holder: str
    mounter: str
    metrics: str
    access: Access | None


class Driver:
    """The gRPC server with all that belongs to it. Raises InvalidSetting, NotSupported, OSError at the start."""

    def __init__(self, options: DriverOptions) -> None:
        if not options.node_id or len(options.node_id) > 253:
            raise InvalidSetting(f"--node-id is {options.node_id!r}: expected the node's name")
        if not os.path.isdir(options.kubelet):
            raise InvalidSetting(f"--kubelet is {options.kubelet!r}, which is no directory: expected the kubelet's own")
        self.metrics = DriverMetrics()
        self._endpoint = _socket_of(options.endpoint)
        volumes = Volumes(options.state)
        holding = Holder(options.holder, options.mounter)
        paths, locks = Targets(options.kubelet), Locks()
        node = Node(options.node_id, volumes, holding, paths, locks)
        self._api = None if options.access is None else Api(options.access)
        self._recorder = None
        if self._api is not None:
            self._recorder = Recorder(self._api, options.node_id, self.metrics.events)
        unserved = Unserved(options.node_id, self.metrics, self._tell)
        self._caretaker = Caretaker(node, volumes, holding, paths, locks, self.metrics, unserved)
        answering = Answering(self.metrics)
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, "request"),
            interceptors=[answering],
            options=[("grpc.so_reuseport", 0)],
        )
        csi_pb2_grpc.add_IdentityServicer_to_server(Identity(holding), self._server)
        csi_pb2_grpc.add_NodeServicer_to_server(node, self._server)
        self._web = Web(options.metrics, self.metrics.registry, Alive(self._endpoint, answering))

    def start(self) -> None:
        """Listen. Raises NotSupported when the socket cannot be had."""
        _remove_stale(self._endpoint)
        mask = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{self._endpoint}")
        except RuntimeError as error:
            raise NotSupported(f"cannot listen at {self._endpoint}: {error}") from None
        finally:
            os.umask(mask)
        self._server.start()
        self._caretaker.start()
        log.info("listens at %s; metrics at port %d", self._endpoint, self._web.port)

    def close(self) -> None:
        """Let requests end, then go. What is mounted stays mounted and served."""
        self._server.stop(_GRACE).wait(_GRACE)
        self._caretaker.close()
        self._web.close()
        if self._recorder is not None:
            self._recorder.close()

    def _tell(self, record: VolumeRecord, event: Event) -> None:
        PodHost(record, self._api, self._recorder, Unobserved()).event(event)


def run(options: DriverOptions) -> None:
    """Answer until SIGTERM or SIGINT; must be the main thread. Raises as `Driver`."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    driver = Driver(options)
    driver.start()
    ended.wait()
    driver.close()


def _socket_of(endpoint: str) -> str:
    path = endpoint.removeprefix("unix://").removeprefix("unix:")
    if not path.startswith("/"):
        raise InvalidSetting(f"--endpoint is {endpoint!r}: expected unix:///csi/csi.sock")
    return path


def _remove_stale(path: str) -> None:
    """Remove a predecessor's socket. Raises NotSupported for anything else that is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise NotSupported(f"{path} is no socket: remove it, or choose another --endpoint")
    os.unlink(path)
