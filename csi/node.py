"""The Node service: publishes inline volumes of pods, and takes them away again, whatever state they are in."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import grpc

from csi import targets
from csi.context import record_of
from csi.holding import Holding
from csi.locks import Locks
from csi.proto import csi_pb2, csi_pb2_grpc
from csi.stats import Stats
from csi.status import Refused
from csi.targets import Targets
from csi.volumes import Published, Volumes
from resultsfs.mountinfo import FILESYSTEM
from resultsfs.record import VolumeRecord, is_volume_id

log = logging.getLogger(__name__)

MOUNT_SECONDS = 30.0
"""How long a mount may take to answer, if the kubelet does not want it sooner (it waits two minutes)."""
_MOST_MOUNTS = 100
"""So many mounts, one over the other, are taken off one target before something must be wrong."""

_MODES = csi_pb2.VolumeCapability.AccessMode
_SINGLE_NODE = frozenset({_MODES.SINGLE_NODE_WRITER, _MODES.SINGLE_NODE_SINGLE_WRITER, _MODES.SINGLE_NODE_MULTI_WRITER})


def _required(value: str, field: str) -> str:
    if not value:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{field} is missing")
    return value


def _check_capability(request: csi_pb2.NodePublishVolumeRequest) -> None:
    """Refuse what a volume cannot be: a block device, shared, read-only, of some other filesystem."""
    if not request.HasField("volume_capability"):
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_capability is missing")
    capability = request.volume_capability
    if not capability.HasField("mount"):
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_capability: only access type mount is served")
    mode = capability.access_mode.mode
    if mode not in _SINGLE_NODE:
        name = _MODES.Mode.Name(mode)
        raise Refused(
            grpc.StatusCode.INVALID_ARGUMENT, f"volume_capability: access mode {name}: expected a single node's"
        )
    if capability.mount.fs_type not in ("", FILESYSTEM):
        text = f"fsType is {capability.mount.fs_type!r}: expected none, for the driver brings its own"
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, text)
    if capability.mount.mount_flags:
        flags = ", ".join(capability.mount.mount_flags)
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"mount options {flags}: expected none")
    if request.readonly:
        text = "readOnly is true: expected false, for steps write their results there"
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, text)


class Node(csi_pb2_grpc.NodeServicer):
    """Answers the kubelet of one node, which knows this node as `name`."""

    def __init__(self, name: str, volumes: Volumes, holding: Holding, paths: Targets, locks: Locks) -> None:
        self._name = name
        self._volumes = volumes
        self._holding = holding
        self._paths = paths
        self._locks = locks
        self.stats = Stats()

    # -- publishing ---------------------------------------------------------------------------------------

    def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodePublishVolumeResponse:
        """Mount a pod's volume at the target path; returns when the mount answers. A second time changes nothing."""
        volume_id = _required(request.volume_id, "volume_id")
        target = _required(request.target_path, "target_path")
        _check_capability(request)
        record = record_of(volume_id, request.volume_context)
        self._paths.checked(target, record.pod_uid)
        left = context.time_remaining()
        seconds = MOUNT_SECONDS if left is None else min(MOUNT_SECONDS, left * 0.9)
        with self._locks.held(target, volume_id):
            self._publish(record, target, seconds)
        return csi_pb2.NodePublishVolumeResponse()

    def _publish(self, record: VolumeRecord, target: str, seconds: float) -> None:
        known = self._volumes.find(record.volume_id)
        if known is not None:
            _same(known, record, target)
            if record.volume_id in self._holding.held() and targets.mounted(target):
                return
        elif targets.mounted(target):
            text = f"target path {target}: something else is mounted there"
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, text)
        over = known is not None and bool(targets.mounted(target))
        if over and not self.stats.is_dead(target):
            raise ConnectionError(f"the mount at {target} is not held yet by a holder that has just begun: ask again")
        made = not over and targets.make(target)
        try:
            self._holding.mount(known or self._volumes.make(record, target), seconds, over=over)
        except BaseException:
            # The kubelet does not unpublish what was never published. What had been there before stays.
            if known is None:
                self._clean_up(record.volume_id, target, made)
            raise

    def _clean_up(self, volume_id: str, target: str, made: bool) -> None:
        """Leave nothing of a volume that could not be published. What its holder may still have, when that does not
        answer, is left to the caretaker."""
        try:
            try:
                self._unmount(volume_id, target)
            except (ConnectionError, TimeoutError):
                if targets.mounted(target):
                    raise
            if made:
                targets.remove(target)
            self._volumes.remove(volume_id)
        except OSError as error:
            log.warning("volume %s is left half published until it is asked for again: %s", volume_id, error)

    # -- unpublishing -------------------------------------------------------------------------------------

    def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Take a volume away with all that is left of it: dead, busy, half published, unknown or gone already."""
        volume_id = _required(request.volume_id, "volume_id")
        target = self._paths.checked(_required(request.target_path, "target_path"))
        if not is_volume_id(volume_id):  # never published, so nothing here is its
            return csi_pb2.NodeUnpublishVolumeResponse()
        with self._locks.held(target, volume_id):
            self.unpublish(volume_id, target)
        return csi_pb2.NodeUnpublishVolumeResponse()

    def unpublish(self, volume_id: str, target: str) -> None:
        """What unpublishing does; the caller holds the locks of both. Raises OSError."""
        known = self._volumes.find(volume_id)
        if known is not None and known.target != target:
            text = f"volume {volume_id} is published at {known.target}, not at {target}"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, text)
        if known is not None or targets.mounted(target):
            self._unmount(volume_id, target)
        targets.remove(target)
        self._volumes.remove(volume_id)

    def _unmount(self, volume_id: str, target: str) -> None:
        """Unmount until nothing is mounted at the target, by the mount table alone; have the volume forgotten."""
        for _ in range(_MOST_MOUNTS):
            before = len(targets.mounted(target))
            self._holding.unmount(volume_id, target)
            after = len(targets.mounted(target))
            if after == 0:
                return
            if after >= before:
                break
        raise Refused(grpc.StatusCode.INTERNAL, f"target path {target}: it stays mounted, although it was unmounted")

    # -- what else the kubelet asks -----------------------------------------------------------------------

    def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        """Bytes and inodes: used, free and in all, as the volume's own statfs(2) says."""
        volume_id = _required(request.volume_id, "volume_id")
        path = _required(request.volume_path, "volume_path")
        known = self._volumes.find(volume_id)
        if known is None or known.target != path or not targets.mounted(path):
            raise Refused(grpc.StatusCode.NOT_FOUND, f"volume {volume_id} is not published at {path}")
        if volume_id not in self._holding.held() or not self._holding.serving():
            raise ConnectionError(f"the mount at {path} is not served at the moment")
        found = self.stats.of(path)
        size = found.f_frsize
        usage = [
            csi_pb2.VolumeUsage(
                unit=csi_pb2.VolumeUsage.BYTES,
                total=found.f_blocks * size,
                available=found.f_bavail * size,
                used=(found.f_blocks - found.f_bfree) * size,
            ),
            csi_pb2.VolumeUsage(
                unit=csi_pb2.VolumeUsage.INODES,
                total=found.f_files,
                available=found.f_favail,
                used=found.f_files - found.f_ffree,
            ),
        ]
        return csi_pb2.NodeGetVolumeStatsResponse(usage=usage)

    def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: Any
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        """Only statistics: nothing is staged, nothing expanded."""
        rpc = csi_pb2.NodeServiceCapability.RPC(type=csi_pb2.NodeServiceCapability.RPC.GET_VOLUME_STATS)
        return csi_pb2.NodeGetCapabilitiesResponse(capabilities=[csi_pb2.NodeServiceCapability(rpc=rpc)])

    def NodeGetInfo(self, request: csi_pb2.NodeGetInfoRequest, context: Any) -> csi_pb2.NodeGetInfoResponse:
        """This node's name; no limit of volumes, no topology."""
        return csi_pb2.NodeGetInfoResponse(node_id=self._name)

    def NodeStageVolume(self, request: csi_pb2.NodeStageVolumeRequest, context: Any) -> csi_pb2.NodeStageVolumeResponse:
        """Not offered."""
        raise _not_offered("NodeStageVolume")

    def NodeUnstageVolume(
        self, request: csi_pb2.NodeUnstageVolumeRequest, context: Any
    ) -> csi_pb2.NodeUnstageVolumeResponse:
        """Not offered."""
        raise _not_offered("NodeUnstageVolume")

    def NodeExpandVolume(
        self, request: csi_pb2.NodeExpandVolumeRequest, context: Any
    ) -> csi_pb2.NodeExpandVolumeResponse:
        """Not offered."""
        raise _not_offered("NodeExpandVolume")


def _not_offered(method: str) -> Refused:
    return Refused(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered: see NodeGetCapabilities")


def _same(known: Published, record: VolumeRecord, target: str) -> None:
    """Refuse to publish a volume once more in another way."""
    if known.target != target:
        text = f"volume {record.volume_id} is published at {known.target} already, and can be at one path only"
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, text)
    # what is learned after publishing does not count
    if replace(known.record, types={}) != replace(record, types={}):
        text = f"volume {record.volume_id} is published already, with other attributes"
        raise Refused(grpc.StatusCode.ALREADY_EXISTS, text)
