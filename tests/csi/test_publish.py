"""Publishing and unpublishing over gRPC, with real mounts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

import resultsfs
from csi.names import DRIVER, EPHEMERAL, POD_NAME, POD_NAMESPACE, POD_UID
from csi.proto import csi_pb2
from tests.support.node import SECONDS, Node

_Mode = csi_pb2.VolumeCapability.AccessMode
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def refused(error: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[grpc.StatusCode, str]:
    """Status code and message of a refusal."""
    call = error.value
    assert isinstance(call, grpc.Call)
    return call.code(), call.details() or ""


def test_identity(node: Node) -> None:
    """The driver says its name, its version, that it offers no controller, and that it is ready."""
    info = node.identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest())
    assert (info.name, info.vendor_version) == (DRIVER, resultsfs.__version__)
    assert list(node.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest()).capabilities) == []
    assert node.identity.Probe(csi_pb2.ProbeRequest()).ready.value is True


def test_node_info(node: Node) -> None:
    """The node's name is the one that the driver was started with; the only capability are statistics."""
    info = node.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest())
    assert (info.node_id, info.max_volumes_per_node) == ("node-1", 0)
    found = node.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest()).capabilities
    assert [capability.rpc.type for capability in found] == [csi_pb2.NodeServiceCapability.RPC.GET_VOLUME_STATS]


def test_a_volume_from_publish_to_unpublish(node: Node) -> None:
    """After publish the mount answers, nosuid and nodev, to everybody; after unpublish nothing is left."""
    volume = node.volume()
    target = volume.publish()
    (target / "report").write_text("content")
    (mount,) = volume.mounts()
    assert mount.ours
    assert {"nosuid", "nodev", "allow_other", "default_permissions"} <= mount.options
    assert (target / "report").read_text() == "content"
    assert target.stat().st_mode & 0o7777 == 0o777
    volume.unpublish()
    volume.gone()


def test_publishing_again_changes_nothing(node: Node) -> None:
    """A republish keeps the mount and what is open on it, also when the kubelet's tokens differ."""
    volume = node.volume()
    target = volume.publish()
    before = volume.mounts()
    with open(target / "report", "w") as report:
        report.write("first ")
        report.flush()
        volume.context["csi.storage.k8s.io/serviceAccount.tokens"] = "another"
        volume.publish()
        report.write("second")
    assert volume.mounts() == before
    assert (target / "report").read_text() == "first second"
    volume.unpublish()
    volume.unpublish()
    volume.gone()


@pytest.mark.parametrize("name", ["with space", "tab\there", "line\nbreak", "back\\slash", "ünï", "a" * 200])
def test_odd_target_paths(node: Node, name: str) -> None:
    """A volume's name in the path may be anything that a directory may be called."""
    volume = node.volume(name=name)
    (volume.publish() / "report").write_text("x")
    assert len(volume.mounts()) == 1
    volume.publish()
    assert len(volume.mounts()) == 1
    volume.unpublish()
    volume.gone()


def test_two_publishes_of_one_target_at_once(fresh_node: Node) -> None:
    """Of many publishes of one volume at once each succeeds or is ABORTED, and there is one mount."""
    volume = fresh_node.volume()

    def publish(_: int) -> grpc.StatusCode:
        try:
            volume.publish()
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error.code()
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(16) as pool:
        codes = set(pool.map(publish, range(64)))
    assert grpc.StatusCode.OK in codes
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.ABORTED}
    assert len(volume.mounts()) == 1
    volume.unpublish()
    volume.gone()


def test_a_hundred_volumes_at_once(fresh_node: Node) -> None:
    """A hundred volumes published at once all serve, each its own files, and all go."""
    volumes = [fresh_node.volume() for _ in range(100)]

    def use(number: int) -> str:
        target = volumes[number].publish()
        (target / "report").write_text(str(number))
        return (target / "report").read_text()

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(use, range(100))) == [str(number) for number in range(100)]
        list(pool.map(lambda volume: volume.unpublish(), volumes))
    for volume in volumes:
        volume.gone()


def test_statistics(node: Node) -> None:
    """Bytes and inodes of a volume; NOT_FOUND for one that is not published, or elsewhere."""
    volume = node.volume()
    target = volume.publish()
    (target / "report").write_bytes(bytes(1 << 20))
    ask = csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume.volume_id, volume_path=str(target))
    usage = {entry.unit: entry for entry in node.node.NodeGetVolumeStats(ask, timeout=SECONDS).usage}
    size, inodes = usage[csi_pb2.VolumeUsage.BYTES], usage[csi_pb2.VolumeUsage.INODES]
    assert 1 << 20 <= size.used < 2 << 20
    assert size.total == 20 << 30
    assert inodes.total > 0
    for other in (str(target) + "x", str(target.parent)):
        with pytest.raises(grpc.RpcError) as error:
            node.node.NodeGetVolumeStats(
                csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume.volume_id, volume_path=other)
            )
        assert refused(error)[0] is grpc.StatusCode.NOT_FOUND
    volume.unpublish()
    with pytest.raises(grpc.RpcError) as error:
        node.node.NodeGetVolumeStats(ask)
    assert refused(error)[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"volume_id": ""}, "volume_id is missing"),
        ({"volume_id": "../up"}, "volume_id"),
        ({"volume_id": "a" * 129}, "volume_id"),
        ({"target_path": ""}, "target_path is missing"),
        ({"target_path": "relative/path"}, "absolute path"),
        ({"target_path": "/etc"}, "target path '/etc'"),
        ({"volume_capability": None}, "volume_capability is missing"),
        ({"readonly": True}, "readOnly"),
        (
            {
                "volume_capability": csi_pb2.VolumeCapability(
                    block=csi_pb2.VolumeCapability.BlockVolume(), access_mode=_Mode(mode=_Mode.SINGLE_NODE_WRITER)
                )
            },
            "only access type mount",
        ),
        (
            {
                "volume_capability": csi_pb2.VolumeCapability(
                    mount=csi_pb2.VolumeCapability.MountVolume(), access_mode=_Mode(mode=_Mode.MULTI_NODE_MULTI_WRITER)
                )
            },
            "MULTI_NODE_MULTI_WRITER",
        ),
        (
            {
                "volume_capability": csi_pb2.VolumeCapability(
                    mount=csi_pb2.VolumeCapability.MountVolume(mount_flags=["suid"]),
                    access_mode=_Mode(mode=_Mode.SINGLE_NODE_WRITER),
                )
            },
            "mount options suid",
        ),
        (
            {
                "volume_capability": csi_pb2.VolumeCapability(
                    mount=csi_pb2.VolumeCapability.MountVolume(fs_type="ext4"),
                    access_mode=_Mode(mode=_Mode.SINGLE_NODE_WRITER),
                )
            },
            "fsType is 'ext4'",
        ),
    ],
)
def test_a_bad_request_is_refused(node: Node, changes: dict[str, object], words: str) -> None:
    """What cannot be is INVALID_ARGUMENT, the field and the value named, and nothing is left behind."""
    volume = node.volume()
    with pytest.raises(grpc.RpcError) as error:
        volume.publish(**changes)
    code, message = refused(error)
    assert code is INVALID
    assert words in message
    volume.gone()


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        (EPHEMERAL, None, "ephemeral' is missing"),
        (EPHEMERAL, "false", "expected 'true'"),
        (POD_NAMESPACE, None, "pod.namespace' is missing"),
        (POD_NAMESPACE, "../other", "namespace"),
        (POD_NAME, None, "pod.name' is missing"),
        (POD_UID, None, "pod.uid' is missing"),
        (POD_UID, "x", "expected a UID"),
        (POD_UID, "6f1c3c1e-3d2b-4a51-9a53-0d6ad8a1c9f4", "is not one of pod"),
        ("store", "s3://elsewhere", "unknown attribute 'store'"),
        ("namespace", "other", "unknown attribute 'namespace'"),
        ("results", None, "'results' is missing"),
        ("results", "../x", "results"),
        ("containers", "0", "containers is '0'"),
        ("run-uid", "x", "run-uid is 'x'"),
        ("mode", "x", "mode is 'x'"),
        ("result-size-threshold", "1", "result-size-threshold is '1'"),
    ],
)
def test_a_bad_attribute_is_refused(node: Node, key: str, text: str | None, words: str) -> None:
    """Attributes by the strict schema: INVALID_ARGUMENT names the key, the value and what is allowed."""
    volume = node.volume()
    volume.context.pop(key, None)
    if text is not None:
        volume.context[key] = text
    with pytest.raises(grpc.RpcError) as error:
        volume.publish()
    code, message = refused(error)
    assert code is INVALID
    assert words in message
    volume.gone()


def test_targets_outside_the_pods_directory_are_refused(node: Node, tmp_path: Path) -> None:
    """Paths that leave the pods' directory, by `..`, by a link, or into another pod's, are refused by both requests."""
    volume, other = node.volume(), node.volume()
    link = volume.target.parent / "link"
    link.symlink_to(tmp_path)
    bad = [
        str(volume.target.parent / ".." / ".." / "x"),
        str(tmp_path / "mount"),
        str(link / "mount"),
        str(node.kubelet / "pods" / "x"),
        str(volume.pod_directory / "volumes" / "kubernetes.io~secret" / "s" / "mount"),
        str(volume.target) + "/",
    ]
    for target in bad:
        with pytest.raises(grpc.RpcError) as error:
            volume.publish(target_path=target)
        assert refused(error)[0] is INVALID
        with pytest.raises(grpc.RpcError) as error:
            volume.unpublish(target_path=target)
        assert refused(error)[0] is INVALID
    with pytest.raises(grpc.RpcError) as error:
        volume.publish(target_path=str(other.target))
    assert refused(error)[0] is INVALID
    assert list(tmp_path.iterdir()) == []
    volume.gone()


def test_a_volume_is_published_in_one_way_only(node: Node) -> None:
    """A second target is FAILED_PRECONDITION, other attributes are ALREADY_EXISTS; the mount goes on."""
    volume = node.volume()
    target = volume.publish()
    elsewhere = volume.pod_directory / "volumes/kubernetes.io~csi/other/mount"
    with pytest.raises(grpc.RpcError) as error:
        volume.publish(target_path=str(elsewhere))
    assert refused(error)[0] is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError) as error:
        volume.publish(volume_context=volume.context | {"containers": "7"})
    assert refused(error)[0] is grpc.StatusCode.ALREADY_EXISTS
    with pytest.raises(grpc.RpcError) as error:
        volume.publish(volume_id="csi-another")
    assert refused(error)[0] is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError) as error:
        volume.unpublish(target_path=str(elsewhere))
    assert refused(error)[0] is INVALID
    (target / "report").write_text("goes on")
    volume.unpublish()
    volume.gone()


def test_a_target_with_something_in_it(node: Node) -> None:
    """A target that is no empty directory is refused, and what lies in it is left alone, also by unpublish."""
    volume = node.volume()
    volume.target.mkdir()
    (volume.target / "file").write_text("somebody's")
    for request in (volume.publish, volume.unpublish):
        with pytest.raises(grpc.RpcError) as error:
            request()
        assert refused(error)[0] is grpc.StatusCode.INTERNAL
    assert (volume.target / "file").read_text() == "somebody's"
    assert not volume.spool.exists()
    (volume.target / "file").unlink()
    volume.publish()
    volume.unpublish()
    volume.gone()


def test_what_is_not_offered_says_so(node: Node) -> None:
    """Staging and expanding are UNIMPLEMENTED."""
    with pytest.raises(grpc.RpcError) as error:
        node.node.NodeStageVolume(csi_pb2.NodeStageVolumeRequest())
    assert refused(error)[0] is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as error:
        node.node.NodeExpandVolume(csi_pb2.NodeExpandVolumeRequest())
    assert refused(error)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_deep_trees_go_with_their_volume(node: Node) -> None:
    """A tree deeper than any recursion, with links out of it, is removed with the volume, and nothing else."""
    volume = node.volume()
    volume.publish()
    outside = node.root / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    (volume.spool / "files" / "link").symlink_to(outside)
    here = os.open(volume.spool / "files", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        step = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = step
    os.close(here)
    volume.unpublish()
    volume.gone()
    assert list((node.state / "volumes").glob(".gone-*")) == []
    assert (outside / "file").read_text() == "stays"
