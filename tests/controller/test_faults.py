"""What goes wrong around a replica: an API server that falls silent or restarts, a slow store, an old certificate."""

from __future__ import annotations

import asyncio
import base64
import datetime
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from controller import certificates
from controller.garbage.collector import Collector
from controller.garbage.leader import Leader
from controller.garbage.watching import Watch
from controller.identity import Identity, Place
from controller.kube import client
from controller.kube.client import Kube
from controller.kube.endpoint import Endpoint, from_kubeconfig
from controller.kube.errors import ApiError
from controller.kube.resources import NAMESPACES, PIPELINE_RUNS, SECRETS, TASK_RUNS, Tree
from controller.metrics import Metrics
from controller.serve import _again
from resultsfs.errors import InvalidSetting
from resultsfs.reference import Reference
from resultsfs.settings import Settings, to_mapping
from resultsfs.store import Store
from tests.controller.apiserver import ApiServer
from tests.controller.relay import relaying
from tests.controller.replica import ACCOUNT, SYSTEM, Replica, owned
from tests.controller.tekton import PODS
from tests.controller.test_admission_pods import pod, task_run, volume
from tests.controller.test_admission_runs import params
from tests.controller.test_admission_runs import task_run as consumer
from tests.controller.test_garbage import fill, run
from tests.support.faultproxy import Fault, FaultProxy, Kind
from tests.support.stores import key_of, put
from tests.support.waiting import eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.slow, pytest.mark.timeout(600)]

TEXT = b"z" * 60_000
PATIENCE = 20.0
"""Seconds in which the controller has given up by itself, on any machine; the API server waits 30 in tests."""


def refusal(kube: Kube, namespace: str, tree: Tree) -> tuple[ApiError | None, float]:
    """The refusal of a TaskRun, None where it was created, and the seconds until then."""
    began = time.monotonic()
    try:
        kube.create(TASK_RUNS, namespace, tree)
    except ApiError as error:
        return error, time.monotonic() - began
    return None, time.monotonic() - began


def through(api: ApiServer, port: int) -> Endpoint:
    """The API as the administrator, by another port."""
    found = from_kubeconfig(str(api.admin))
    return Endpoint(f"https://127.0.0.1:{port}", found.tls, found.authorization, found.namespace)


def test_a_watch_that_falls_silent_goes_on(
    api: ApiServer, kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its connection open and nothing coming the watch notices by itself, and tells what was deleted meanwhile."""
    monkeypatch.setattr("controller.garbage.watching.LIFE", 2.0)
    monkeypatch.setattr("controller.garbage.watching._PAUSE", 0.1)
    monkeypatch.setattr(client, "SLACK", 1.0)
    told: list[str] = []
    missed: list[bool] = []
    other = f"{namespace}-other"
    kube.create(NAMESPACES, None, {"metadata": {"name": other}})
    run(kube, other, "meanwhile")
    with relaying(api.port) as relay:
        watching = Kube(through(api, relay.port))
        watch = Watch(watching, told.append, lambda: missed.append(True))
        try:
            watch.start()
            eventually(lambda: namespace in told or _made_and_deleted(kube, namespace))
            relay.fall_silent(for_new_ones=False)
            kube.delete(PIPELINE_RUNS, other, "meanwhile")
            eventually(lambda: other in told, 60)
        finally:
            watch.stop()
            watching.close()
    assert not missed  # it went on where it was


def _made_and_deleted(kube: Kube, namespace: str) -> bool:
    name = f"run-{time.monotonic_ns()}"
    run(kube, namespace, name)
    kube.delete(PIPELINE_RUNS, namespace, name)
    return False  # the watch may not have begun yet


def test_an_api_server_that_is_silent_for_the_controller(
    api: ApiServer, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    """Runs with references are refused for now in our own words and in time, pods go on as in stock Tekton; later all
    is as before."""
    store = Store.open(Settings(store=f"file://{tmp_path}/store"))
    key = put(store, TEXT, key_of(TEXT, namespace))
    tree = consumer("late", ("p", str(Reference.of(key.run, key.sha256))))
    with (
        relaying(api.port) as relay,
        owned(api, kube, tmp_path, {"store": store.url}, api_port=relay.port) as replica,
    ):
        relay.fall_silent(for_new_ones=True)
        error, seconds = refusal(kube, namespace, tree)
        assert error is not None and error.status == 503 and "cannot be read now" in str(error), error
        assert seconds < PATIENCE
        made = kube.create(PODS, namespace, pod(task_run(kube, namespace, "plain")))
        assert "emptyDir" in volume(made)
        relay.speak()
        eventually(lambda: refusal(kube, namespace, tree)[0] is None, 60)
        assert params(kube.get(TASK_RUNS, namespace, "late")) == {"p": TEXT.decode()}
        eventually(lambda: gets_a_volume(kube, namespace), 60)
        assert replica.process.poll() is None
    store.close()


def gets_a_volume(kube: Kube, namespace: str) -> bool:
    """Whether a new TaskRun's pod does."""
    name = f"again-{time.monotonic_ns()}"
    return "csi" in volume(kube.create(PODS, namespace, pod(task_run(kube, namespace, name))))


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (Fault(Kind.HANG), 503, "did not answer in time"),
        (Fault(Kind.SLOW, method="GET", rate=2000), 503, "did not answer in time"),
        (Fault(Kind.ANSWER), 503, "cannot be read now"),
        (Fault(Kind.RESET), 503, "cannot be read now"),
        (Fault(Kind.CORRUPT, method="GET"), 422, "damaged"),
    ],
    ids=["silent", "slow", "overloaded", "broken off", "wrong bytes"],
)
def test_a_store_that_misbehaves(
    api: ApiServer,
    kube: Kube,
    namespace: str,
    tmp_path: Path,
    fault_proxy: FaultProxy,
    fault: Fault,
    status: int,
    said: str,
) -> None:
    """While the store is slow, refuses or lies, runs are refused in time and with the reason; pods get their volumes
    meanwhile. Then they are created with their content."""
    settings = fault_proxy.settings()
    store = Store.open(settings)
    key = put(store, TEXT, key_of(TEXT, namespace))
    value = str(Reference.of(key.run, key.sha256))
    with owned(api, kube, tmp_path, to_mapping(settings)):
        fault_proxy.fault = fault
        with ThreadPoolExecutor(24) as pool:  # more than are worked on at a time
            waiting = [
                pool.submit(refusal, kube, namespace, consumer(f"r-{number}", ("p", value))) for number in range(24)
            ]
            eventually(lambda: fault_proxy.hits > 0)
            assert gets_a_volume(kube, namespace)
            refusals = [one.result() for one in waiting]
        for error, seconds in refusals:
            assert error is not None
            too_much = "no time for it" in str(error)  # those that had to wait for others, on a slow machine
            assert error.status == (503 if too_much else status), error
            assert said in str(error) or too_much
            assert seconds < PATIENCE
        assert any(said in str(error) for error, _ in refusals)
        fault_proxy.fault = None
        eventually(lambda: refusal(kube, namespace, consumer("then", ("p", value)))[0] is None)
        assert params(kube.get(TASK_RUNS, namespace, "then")) == {"p": TEXT.decode()}
    store.close()


def test_a_certificate_that_expired_while_nobody_ran(
    api: ApiServer, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    """A replica that finds an expired certificate makes another, and the API server believes it."""
    secret = f"{ACCOUNT}-certificate"
    expired = Identity(kube, Place(SYSTEM, secret, "", ["127.0.0.1"], life=datetime.timedelta(seconds=1)))
    data = kube.get(SECRETS, SYSTEM, secret)
    data["data"] = None
    kube.update(SECRETS, SYSTEM, data)
    found = expired.look()
    assert found is not None
    expiry = certificates.facts(found.certificate).expiry
    eventually(lambda: datetime.datetime.now(datetime.UTC) > expiry)
    store = Store.open(Settings(store=f"file://{tmp_path}/store"))
    key = put(store, TEXT, key_of(TEXT, namespace))
    with owned(api, kube, tmp_path, {"store": store.url}):
        value = str(Reference.of(key.run, key.sha256))
        eventually(lambda: refusal(kube, namespace, consumer("then", ("p", value)))[0] is None)
        assert params(kube.get(TASK_RUNS, namespace, "then")) == {"p": TEXT.decode()}
    made = base64.b64decode(kube.get(SECRETS, SYSTEM, secret)["data"]["tls.crt"])
    assert certificates.facts(made).expiry > expiry
    store.close()


def test_garbage_after_the_api_server_restarted(api: ApiServer, kube: Kube, namespace: str, tmp_path: Path) -> None:
    """The replica that led leads again, and its watch tells of deletions, also of those while it could not see."""
    settings = {"store": f"file://{tmp_path}/store", "garbage-grace": "0", "garbage-interval": "1h"}
    store = Store.open(Settings(store=settings["store"]))
    uids: list[UUID] = [run(kube, namespace, name) for name in ("first", "second", "alive")]
    for uid in uids:
        fill(store, namespace, uid)
    with watched(api, kube, tmp_path, settings) as replica:
        kube.delete(PIPELINE_RUNS, namespace, "first")
        api.restart()
        eventually(lambda: "resultsfs_leader 1.0" in replica.get("/metrics")[1], 60)
        kube.delete(PIPELINE_RUNS, namespace, "second")
        eventually(lambda: {uid for _, uid in store.runs(namespace)} == {uids[2]}, 120)
    store.close()


@pytest.mark.parametrize("error", [OSError("no token"), RuntimeError("a defect")], ids=["token", "defect"])
def test_a_token_that_cannot_be_read_ends_no_thread(
    api: ApiServer, kube: Kube, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its file may be unreadable while the kubelet replaces it: who leads and who watches try again, and then do it."""
    monkeypatch.setattr("controller.garbage.collector.RENEW", 0.1)
    monkeypatch.setattr("controller.garbage.watching._PAUSE", 0.1)
    found = from_kubeconfig(str(api.admin))
    asked: Counter[str] = Counter()
    readable = threading.Event()

    def authorization() -> str | None:
        asked[threading.current_thread().name] += 1
        if not readable.is_set():
            raise error
        return found.authorization()

    settings = Settings(store=f"file://{tmp_path}/store", garbage_grace=0)
    store, gone = Store.open(settings), uuid4()
    fill(store, namespace, gone)
    unsteady = Kube(Endpoint(found.url, found.tls, authorization, found.namespace))
    leader = Leader(unsteady, namespace, "lease", "one")
    collector = Collector(unsteady, lambda: store, lambda: settings, Metrics(), leader)
    collector.start()
    try:
        threads = ("leader", "watch-taskruns", "watch-pipelineruns")
        eventually(lambda: all(asked[name] > 2 for name in threads))
        readable.set()
        eventually(lambda: not list(store.runs(namespace)))
        made = run(kube, namespace, "then")
        fill(store, namespace, made)
        kube.delete(PIPELINE_RUNS, namespace, "then")
        eventually(lambda: not list(store.runs(namespace)), 60)
    finally:
        collector.stop()
        unsteady.close()
        store.close()


def test_what_is_done_again_and_again_outlives_its_failures(caplog: pytest.LogCaptureFixture) -> None:
    """A Secret or a token that cannot be read, or a defect, is told and tried again; it does not end the replica."""
    errors: list[Exception] = [RuntimeError("a defect"), OSError("no token"), InvalidSetting("no certificate")]

    async def all_of_them() -> None:
        stopping = asyncio.Event()

        async def action() -> None:
            if not errors:
                stopping.set()
                return
            raise errors.pop()

        await _again(stopping, 0.01, action, "identity")

    asyncio.run(all_of_them())
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "ERROR"]


@contextmanager
def watched(api: ApiServer, kube: Kube, home: Path, settings: dict[str, str]) -> Iterator[Replica]:
    """A replica that has swept once, so that from now on it sees what its watch tells."""
    with owned(api, kube, home, settings) as replica:
        eventually(lambda: "resultsfs_leader 1.0" in replica.get("/metrics")[1], 60)
        eventually(lambda: "last_sweep_timestamp_seconds 0.0" not in replica.get("/metrics")[1], 60)
        yield replica
