"""While the mounter is away: the driver lives, says that it is not ready, and tells whose results nobody serves."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from csi.alive import Alive
from csi.identity import Identity
from csi.logs import Answering
from csi.metrics import DriverMetrics
from csi.proto import csi_pb2, csi_pb2_grpc
from csi.unserved import Unserved
from resultsfs.events import Event
from resultsfs.record import VolumeRecord
from tests.csi.test_configuration import get, metric, needs_root
from tests.support.node import Node, running
from tests.support.waiting import eventually


@pytest.fixture
def probing() -> Iterator[Node]:
    """A node whose driver asks for the mounter's health, at a loopback address that nobody else has."""
    some = random.SystemRandom()
    with running(address=f"127.{some.randint(1, 254)}.{some.randint(0, 255)}.{some.randint(1, 254)}:9811") as node:
        yield node


def ready(node: Node) -> bool:
    """What CSI's Probe says."""
    found: bool = node.identity.Probe(csi_pb2.ProbeRequest(), timeout=60).ready.value
    return found


@pytest.mark.mount
@needs_root
def test_a_driver_lives_without_a_mounter(probing: Node) -> None:
    """Without a mounter Probe says that nothing can be mounted, and the driver's own health, by which it would be
    restarted, stays good; a metric counts the volumes that nobody serves. All is well again with the next mounter."""
    port = probing.ports()["driver"]
    volume = probing.volume()
    (volume.publish() / "report").write_text("before")
    assert ready(probing)
    probing.mounter.kill9()
    eventually(lambda: not ready(probing))
    eventually(lambda: metric(port, "resultsfs_volumes_not_served") == 1, 60)
    assert json.loads(get(port, "/healthz"))["ok"] is True
    probing.start_mounter()
    eventually(lambda: ready(probing))
    eventually(lambda: metric(port, "resultsfs_volumes_not_served") == 0, 60)
    assert (volume.target / "report").read_text() == "before"
    volume.unpublish()
    volume.gone()


@pytest.mark.mount
@needs_root
def test_a_mounter_that_serves_on_without_a_holder(probing: Node) -> None:
    """Without a holder Probe says that nothing can be mounted; the driver is alive, and no volume counts as unserved."""
    port = probing.ports()["driver"]
    volume = probing.volume()
    target = volume.publish()
    eventually(lambda: metric(port, "resultsfs_volumes") == 1, 60)
    probing.holder.kill9()
    eventually(lambda: not ready(probing))
    (target / "report").write_text("served on")
    assert json.loads(get(port, "/healthz"))["ok"] is True
    assert metric(port, "resultsfs_volumes_not_served") == 0
    probing.start_holder()
    eventually(lambda: ready(probing))
    volume.unpublish()
    volume.gone()


class _Nobody:
    """A Holding that is never asked."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(name)


def test_a_driver_that_hangs_is_not_alive(tmp_path: Path) -> None:
    """With every thread busy it counts as alive while requests end, and not when none has ended for long."""
    answering = Answering(DriverMetrics())
    threads = ThreadPoolExecutor(1)
    server = grpc.server(threads, interceptors=[answering])
    csi_pb2_grpc.add_IdentityServicer_to_server(Identity(_Nobody()), server)  # type: ignore[arg-type]
    socket = str(tmp_path / "csi.sock")
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    go_on = threading.Event()
    try:
        alive = Alive(socket, answering)
        eventually(lambda: alive() == (True, {"driver": "answers"}))
        threads.submit(go_on.wait)
        good, said = alive()
        assert good
        assert "busy" in said["driver"]
        answering.ended -= 1000
        good, said = alive()
        assert not good
        assert "does not answer" in said["driver"]
    finally:
        go_on.set()
        server.stop(None).wait()
        threads.shutdown()


def record(volume_id: str) -> VolumeRecord:
    """A volume's record."""
    return VolumeRecord(
        volume_id=volume_id, namespace="team-a", taskrun="t", pod_name="p", pod_uid=uuid.uuid4(), run_uid=uuid.uuid4(),
        results=("report",),
    )  # fmt: skip


def test_each_outage_is_told_once() -> None:
    """A volume is told of once it has been without a server for long enough, once an outage, and that it is served again;
    one that is served again sooner is not told of."""
    told: list[tuple[str, Event]] = []
    metrics = DriverMetrics()
    first, second = record("first"), record("second")

    def seen(unserved: Unserved, *served: str) -> list[tuple[str, str]]:
        told.clear()
        unserved.seen([first, second], frozenset(served))
        return [(volume_id, event.reason) for volume_id, event in told]

    def tell(about: VolumeRecord, event: Event) -> None:
        told.append((about.volume_id, event))

    at_once = Unserved("node-1", metrics, tell, patience=0)
    assert seen(at_once, "first", "second") == []
    assert seen(at_once, "second") == [("first", "ResultsNotServed")]
    assert "node-1" in told[0][1].message
    assert metrics.registry.get_sample_value("resultsfs_volumes_not_served") == 1
    assert seen(at_once, "second") == []
    assert seen(at_once, "first", "second") == [("first", "ResultsServed")]
    assert metrics.registry.get_sample_value("resultsfs_volumes_not_served") == 0
    assert seen(at_once) == [("first", "ResultsNotServed"), ("second", "ResultsNotServed")]
    told.clear()
    at_once.seen([second], frozenset())
    assert told == []
    patient = Unserved("node-1", metrics, tell, patience=3600)
    assert seen(patient) == []
    assert seen(patient, "first", "second") == []
