"""Unpublishing and republishing whatever state a volume is in; who is killed meanwhile."""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from csi.proto import csi_pb2
from tests.support.node import Node, running
from tests.support.pods import until_done
from tests.support.waiting import eventually


def code_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    """The status code of a refusal."""
    assert isinstance(error.value, grpc.Call)
    return error.value.code()


# -- unpublishing -------------------------------------------------------------------------------------------------


def test_unknown_volumes_are_unpublished(node: Node) -> None:
    """What was never published, or is gone with its whole pod directory, is unpublished with success."""
    volume = node.volume()
    volume.unpublish()
    volume.unpublish(volume_id="no id of ours !")
    shutil.rmtree(volume.pod_directory)
    volume.unpublish()


def test_an_empty_target_is_removed(node: Node) -> None:
    """A target directory without a mount, half published, is removed."""
    volume = node.volume()
    volume.target.mkdir()
    volume.unpublish()
    volume.gone()


def test_a_busy_volume_is_unpublished(node: Node) -> None:
    """With a file open and a working directory inside, unpublish ends at once; who is still there is told that the mount is gone."""
    volume = node.volume()
    target = volume.publish()
    with subprocess.Popen(["sleep", "1000"], cwd=target) as inside:
        report = os.open(target / "report", os.O_WRONLY | os.O_CREAT)
        try:
            volume.unpublish()
            volume.gone()
            with pytest.raises(OSError, match=r"not connected|connection abort"):
                os.stat(f"/proc/{inside.pid}/cwd/report")
        finally:
            inside.kill()
            with suppress(OSError):  # what a closing writer is told by a mount that is gone
                os.close(report)


def test_a_volume_taken_off_by_others(node: Node) -> None:
    """A volume whose mount an administrator has taken off is unpublished, and can be published again before."""
    volume = node.volume()
    (volume.publish() / "report").write_text("kept")
    subprocess.run(["umount", "-l", str(volume.target)], check=True)
    until_done(volume.publish)
    eventually(lambda: (volume.target / "report").exists())
    assert (volume.target / "report").read_text() == "kept"
    subprocess.run(["umount", "-l", str(volume.target)], check=True)
    until_done(volume.unpublish)
    volume.gone()


def test_a_dead_mount_is_unpublished(fresh_node: Node) -> None:
    """A mount whose descriptors are all lost is taken off, without a look at it that would hang."""
    volume = fresh_node.volume()
    volume.publish()
    fresh_node.driver.kill9()
    fresh_node.mounter.kill9()
    fresh_node.holder.kill9()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(volume.target)
    fresh_node.start_holder()
    fresh_node.start_driver()  # no mounter: unpublish does not need one
    until_done(volume.unpublish)
    volume.gone()


def test_mounts_stacked_by_others_are_taken_off(node: Node) -> None:
    """Unpublish goes on until nothing is mounted at the target."""
    volume = node.volume()
    target = volume.publish()
    for _ in range(3):
        subprocess.run(["mount", "--bind", str(node.root / "store.other"), str(target)], check=False)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(target)], check=True)
    assert len(volume.mounts()) == 4
    volume.unpublish()
    volume.gone()


def test_without_a_holder(fresh_node: Node) -> None:
    """Publish and unpublish are UNAVAILABLE and leave nothing half done; what is unknown is unpublished all the same."""
    volume, other = fresh_node.volume(), fresh_node.volume()
    other.publish()
    fresh_node.holder.kill9()
    with pytest.raises(grpc.RpcError) as error:
        volume.publish()
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.RpcError) as error:
        other.unpublish()
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE
    assert not fresh_node.identity.Probe(csi_pb2.ProbeRequest()).ready.value
    fresh_node.volume().unpublish()
    (other.target / "report").write_text("is served on")
    fresh_node.start_holder()
    until_done(volume.publish)
    until_done(other.unpublish)
    until_done(volume.unpublish)
    volume.gone()
    other.gone()


def test_without_a_mounter(fresh_node: Node) -> None:
    """Publish waits for a mounter; when none comes it fails, and leaves nothing."""
    fresh_node.mounter.stop()
    volume = fresh_node.volume()
    with pytest.raises(grpc.RpcError) as error:
        fresh_node.node.NodePublishVolume(volume.publish_request(), timeout=3)
    assert code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: volume.mounts() == [] and not volume.spool.exists())
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(until_done, volume.publish)
        fresh_node.start_mounter()
        published.result()
    (volume.target / "report").write_text("x")
    volume.unpublish()
    volume.gone()


# -- restarts -----------------------------------------------------------------------------------------------------


def test_a_driver_forgets_nothing(fresh_node: Node) -> None:
    """After the driver was killed, what is published is served, published again and unpublished."""
    volume, other = fresh_node.volume(), fresh_node.volume()
    target = volume.publish()
    other.publish()
    fresh_node.driver.kill9()
    (target / "report").write_text("no driver needed")
    fresh_node.start_driver()
    volume.publish()
    assert (target / "report").read_text() == "no driver needed"
    assert len(volume.mounts()) == 1
    volume.unpublish()
    other.unpublish()
    volume.gone()
    other.gone()


CLIENT = """
import sys
with open("report", "w") as report:
    for line in sys.stdin:
        report.write(line)
        report.flush()
        print("written", flush=True)
"""


def test_both_processes_are_replaced(fresh_node: Node) -> None:
    """Driver and mounter ended together, as when their pod is replaced: a client that is writing does not notice."""
    volume = fresh_node.volume()
    target = volume.publish()
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", CLIENT]
    # a process of its own: what this one had open there, each process that it starts would have to close
    with subprocess.Popen(command, cwd=target, stdin=pipe, stdout=pipe, text=True, bufsize=1) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write("before\n")
            assert client.stdout.readline() == "written\n"
            fresh_node.driver.stop()
            fresh_node.mounter.stop()
            client.stdin.write("meanwhile\n")
            fresh_node.start_mounter()
            fresh_node.start_driver()
            client.stdin.write("after\n")
            assert [client.stdout.readline() for _ in range(2)] == ["written\n"] * 2
            client.stdin.close()
            assert client.wait(60) == 0
        finally:
            client.kill()
    assert (target / "report").read_text() == "before\nmeanwhile\nafter\n"
    volume.unpublish()
    volume.gone()


def take(lines: Iterable[str] | None, said: queue.Queue[str]) -> None:
    """Hand on what a process says."""
    for line in lines or ():
        said.put(line)


@pytest.mark.slow
@pytest.mark.mount
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")
def test_killed_at_random_under_load() -> None:
    """Driver, mounter, both or the holder killed again and again while pods come, write, read and go: not one client
    error, and nothing is left."""
    choose = random.Random(7)
    with running() as node:
        command = [sys.executable, "-m", "tests.support.pods", str(node.root)]
        said: queue.Queue[str] = queue.Queue()
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as pods:
            assert pods.stdin is not None
            reader = threading.Thread(target=take, args=(pods.stdout, said))
            reader.start()
            try:
                for _ in range(12):
                    for _ in range(4):
                        line = said.get(timeout=120)
                        assert not line.startswith("failed"), line
                    victims = choose.choice(["driver", "mounter", "both", "holder"])
                    if victims == "holder":
                        node.holder.kill9()
                        node.start_holder()
                        node.holder.said("is attached")  # by then the mounter has given it all that it serves
                    if victims in ("mounter", "both"):
                        node.mounter.kill9()
                        node.start_mounter()
                    if victims in ("driver", "both"):
                        node.driver.kill9()
                        node.start_driver()
                pods.stdin.close()
                assert pods.wait(180) == 0
            finally:
                pods.kill()
                reader.join()
        assert [line for line in list(said.queue) if line.startswith("failed")] == []
        assert list((node.state / "volumes").iterdir()) == []


# -- what nobody asks about ---------------------------------------------------------------------------------------


def test_a_mount_is_put_over_a_dead_one(fresh_node: Node) -> None:
    """When holder, mounter and driver are all killed, the mount is dead; the next ones put a new one over it, and a
    container that mounts the volume with HostToContainer propagation reads and writes again."""
    # the kubelet's directory is a shared mount on nodes
    subprocess.run(["mount", "--bind", "--make-shared", str(fresh_node.kubelet), str(fresh_node.kubelet)], check=True)
    volume = fresh_node.volume()
    (volume.publish() / "report").write_text("before")
    inside = fresh_node.root / "inside"
    inside.mkdir()
    container = f"mount --bind {volume.target} {inside} && echo ready && read line && cat {inside}/report && echo x > {inside}/new"
    command = ["unshare", "-m", "--propagation", "slave", "sh", "-c", container]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for one in (fresh_node.driver, fresh_node.mounter, fresh_node.holder):
            one.kill9()
        with pytest.raises(OSError, match="not connected"):
            (volume.target / "report").read_text()
        fresh_node.start()
        eventually(lambda: len(volume.mounts()) == 2, 60)
        until_done(volume.publish)
        output, _ = process.communicate("go\n", timeout=60)
        assert output == "before"
        assert process.returncode == 0
    assert (volume.target / "new").read_text() == "x\n"
    until_done(volume.unpublish)
    volume.gone()


def test_orphans_are_removed_at_start(fresh_node: Node) -> None:
    """Volumes of pods whose directory is gone are unmounted and removed by the next driver; the others stay."""
    orphan, kept = fresh_node.volume(), fresh_node.volume()
    orphan.publish()
    (kept.publish() / "report").write_text("kept")
    fresh_node.driver.stop()
    subprocess.run(["umount", "-l", str(orphan.target)], check=True)
    shutil.rmtree(orphan.pod_directory)
    half = fresh_node.state / "volumes" / ".gone-0"
    (half / "files").mkdir(parents=True)
    fresh_node.start_driver()
    eventually(lambda: not orphan.spool.exists() and not half.exists())
    assert (kept.target / "report").read_text() == "kept"
    kept.unpublish()
    kept.gone()


def test_nothing_is_an_orphan_without_the_pods_directory(fresh_node: Node) -> None:
    """A driver that sees no pods at all, for its kubelet directory is the wrong one, removes nothing."""
    volume = fresh_node.volume()
    (volume.publish() / "report").write_text("kept")
    fresh_node.driver.stop()
    pods = fresh_node.kubelet / "pods"
    hidden = fresh_node.kubelet / "hidden"
    pods.rename(hidden)
    try:
        fresh_node.start_driver()
        fresh_node.driver.said("are not looked for")
        assert (volume.spool / "files" / "report").read_text() == "kept"
    finally:
        hidden.rename(pods)
    volume.unpublish()
    volume.gone()


def test_a_torn_record_is_written_anew(fresh_node: Node) -> None:
    """A record that a crash of the node tore does not keep the volume from being published, with its files."""
    volume = fresh_node.volume()
    (volume.publish() / "report").write_text("kept")
    for process in (fresh_node.driver, fresh_node.mounter, fresh_node.holder):
        process.stop()
    subprocess.run(["umount", "-l", str(volume.target)], check=True)
    (volume.spool / "record.json").write_text('{"volume_id": "cs')
    fresh_node.start()
    until_done(volume.publish)
    assert (volume.target / "report").read_text() == "kept"
    assert json.loads((volume.spool / "record.json").read_text())["namespace"] == "team-a"
    volume.unpublish()
    volume.gone()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_long_mount_table(fresh_node: Node, tmp_path: Path) -> None:
    """Among 2,000 other mounts, publish and unpublish work."""
    made: list[Path] = []
    try:
        for number in range(2000):
            place = tmp_path / str(number)
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
            made.append(place)
        volume = fresh_node.volume()
        (volume.publish() / "report").write_text("x")
        volume.publish()
        volume.unpublish()
        volume.gone()
    finally:
        for place in made:
            subprocess.run(["umount", str(place)], check=True)
