"""A node's disk that fills up: stored content makes room first, then writes are refused, before the disk is full."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.csi.test_configuration import metric, needs_root
from tests.support.node import Node, VolumeOf, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, needs_root]

MIB = 1 << 20
DISK, RESERVE = 128 * MIB, 32 * MIB


@pytest.fixture
def small() -> Iterator[Node]:
    """A node whose spools and cache have a disk of 128 MiB, of which 25% must stay free; the store is elsewhere."""
    with running({"node-disk-reserve": "25%"}, start=False) as node:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(node.state)], check=True)
        (node.state / "holder").mkdir()
        node.start()
        yield node


def spilled(node: Node, size: int) -> str:
    """Have a result of so many bytes stored by a volume that is gone afterwards; the reference's name below `.ref`."""
    volume = node.volume()
    (volume.publish() / "report").write_bytes(bytes(size))
    found = read(volume).decode()
    volume.unpublish()
    assert found.startswith("/tekton/results/.ref/")
    eventually(lambda: free(node) > DISK - MIB)  # the mounter may close a file a moment after it has gone
    return Path(found).name


def read(volume: VolumeOf) -> bytes:
    """What a collector reads of the result."""
    command = [volume.bring_entrypoint(), volume.target / "report"]
    return subprocess.run(command, capture_output=True, timeout=90, check=True).stdout


def nobody_reads(node: Node) -> bool:
    """Whether the mounter has no cached content open: a reader's close is told to it a moment later."""
    for place in Path(f"/proc/{node.mounter.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            file = os.readlink(place)
            if file.startswith(f"{node.state}/cache/") and not file.endswith("/.lock"):
                return False
    return True


def free(node: Node) -> int:
    """Bytes free on the node's disk."""
    found = os.statvfs(node.state)
    return found.f_bavail * found.f_frsize


def test_stored_content_makes_room(small: Node) -> None:
    """Content fetched by reference, which is in the store, goes when a write would leave less free than
    node-disk-reserve; the write succeeds, and the content can be fetched again as soon as there is room."""
    port = small.ports()["mounter"]
    reference = spilled(small, 40 * MIB)
    volume = small.volume()
    content = volume.publish() / ".ref" / reference
    assert content.read_bytes() == bytes(40 * MIB)
    assert metric(port, "resultsfs_cache_bytes") >= 40 * MIB
    eventually(lambda: nobody_reads(small))
    (volume.target / "report").write_bytes(bytes(70 * MIB))
    assert metric(port, "resultsfs_cache_bytes") < 40 * MIB
    assert "of cached content made room" in small.mounter.log()
    assert free(small) >= RESERVE - MIB
    (volume.target / "report").unlink()
    assert content.read_bytes() == bytes(40 * MIB)
    volume.unpublish()
    volume.gone()


def test_writes_are_refused_before_the_disk_is_full(small: Node) -> None:
    """On every volume writes get ENOSPC while that much is still free, and the host is told which setting it was; the
    collector of what is there gets it, and a pod that goes gives room to the others."""
    port = small.ports()["mounter"]
    first, second = small.volume(), small.volume()
    (first.publish() / "report").write_bytes(bytes(80 * MIB))
    with pytest.raises(OSError, match="No space left"):
        (second.publish() / "report").write_bytes(bytes(40 * MIB))
    assert free(small) >= RESERVE - MIB
    assert re.search(r"NodeDiskFull: .*node-disk-reserve \(25%\)", small.mounter.log())
    assert metric(port, 'resultsfs_errors_total{cause="NodeDiskFull"}') >= 1
    assert read(first).startswith(b"/tekton/results/.ref/")
    (second.target / "report").unlink()
    first.unpublish()
    first.gone()
    (second.target / "report").write_bytes(bytes(40 * MIB))
    second.unpublish()
    second.gone()


def test_what_others_write_counts(small: Node) -> None:
    """When something else fills the disk, writes are refused too, until it is gone; small results that are there are
    collected meanwhile."""
    port = small.ports()["mounter"]
    volume = small.volume()
    (volume.publish() / "report").write_text("small")
    stranger = small.state / "stranger"
    with open(stranger, "wb") as file:
        file.write(bytes(free(small) - RESERVE // 2))
    eventually(lambda: metric(port, "resultsfs_disk_full") == 1)
    with pytest.raises(OSError, match="No space left"):
        (volume.target / "other").write_bytes(bytes(2 * MIB))
    assert read(volume) == b"small"
    stranger.unlink()
    eventually(lambda: metric(port, "resultsfs_disk_full") == 0)
    (volume.target / "other").write_bytes(bytes(2 * MIB))
    volume.unpublish()
    volume.gone()
