"""Volume ids that cannot be ours: no path, no hidden name, nothing too long."""

from __future__ import annotations

import grpc
import pytest

from csi.volumes import Volumes
from tests.support.node import Node

IMPOSSIBLE = [
    "../victim",
    "../volumes/victim",
    ".",
    "..",
    "/",
    "a/b",
    "a\0b",
    ".new-victim",
    "no id of ours !",
    "a\n",
    "a" * 129,
    "a" * 256,
]


@pytest.mark.parametrize("volume_id", IMPOSSIBLE, ids=repr)
def test_an_id_that_cannot_be_touches_nothing(node: Node, volume_id: str) -> None:
    """It is unknown: its unpublishing succeeds and removes nothing, not even what is published at the target; its
    publishing is INVALID_ARGUMENT."""
    volume = node.volume()
    victim = node.state / "victim"
    victim.mkdir(exist_ok=True)
    (victim / "file").write_text("stays")
    with pytest.raises(grpc.RpcError) as error:
        volume.publish(volume_id=volume_id)
    assert isinstance(error.value, grpc.Call)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "volume_id" in (error.value.details() or "")
    (volume.publish() / "report").write_text("stays")
    volume.unpublish(volume_id=volume_id)
    assert (volume.target / "report").read_text() == "stays"
    assert (victim / "file").read_text() == "stays"
    volume.unpublish()
    volume.gone()


@pytest.mark.parametrize("volume_id", ["", *IMPOSSIBLE], ids=repr)
def test_no_other_file_is_reached_by_an_id(tmp_path_factory: pytest.TempPathFactory, volume_id: str) -> None:
    """Finding and removing by such an id finds nothing and removes nothing."""
    data = tmp_path_factory.mktemp("data")
    volumes = Volumes(str(data))
    for directory in (data / "victim", data / "volumes" / "victim", data / "volumes" / ".new-victim"):
        directory.mkdir()
        (directory / "record.json").write_text("{}")
    before = sorted(data.rglob("*"))
    assert volumes.find(volume_id) is None
    volumes.remove(volume_id)
    assert sorted(data.rglob("*")) == before
    assert list(volumes.unreadable()) == ["victim"]
