"""A replica's life: who it listens to, certificates that come and go, faults around it, its end."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from controller import authority
from controller.identity import Identity, Place
from controller.kube.client import Kube
from controller.kube.errors import ApiError
from controller.kube.resources import MUTATING_WEBHOOKS, SECRETS, TASK_RUNS
from resultsfs.reference import Reference
from resultsfs.settings import Settings
from resultsfs.store import Key, Store
from tests.controller.apiserver import ApiServer
from tests.controller.replica import delete_quietly, owned, register, running
from tests.controller.tekton import PODS
from tests.controller.test_admission_pods import pod, task_run, volume
from tests.controller.test_admission_runs import task_run as consumer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]


@pytest.fixture
def webhooks(api: ApiServer, kube: Kube) -> Iterator[str]:
    """A webhook configuration for a namespace that has nothing in it."""
    name = f"webhooks-{uuid4().hex[:8]}"
    register(api, name, "https://127.0.0.1:9", only="none")
    yield name
    delete_quietly(kube, MUTATING_WEBHOOKS, name)


def look(identity: Identity) -> None:
    """As the replica does it."""
    pair = identity.look()
    if pair is not None:
        identity.take(pair)


def registered(kube: Kube, name: str) -> list[tuple[str, bytes]]:
    """Paths and authorities of a webhook configuration."""
    found = kube.get(MUTATING_WEBHOOKS, None, name)["webhooks"]
    clients = [webhook["clientConfig"] for webhook in found]
    return [(client["url"].partition(":9")[2], base64.b64decode(client.get("caBundle", ""))) for client in clients]


def test_replicas_share_one_identity(kube: Kube, namespace: str, webhooks: str) -> None:
    """Whoever comes first makes certificate and token; the others take them, and only the API server's token is let in."""
    place = Place(namespace, f"{namespace}-identity", webhooks, ["127.0.0.1"])
    first, second = Identity(kube, place), Identity(kube, place)
    assert not first.ready
    look(first)
    look(second)
    assert first.ready and first.expiry == second.expiry
    (pods, bundle), again, (runs, same) = registered(kube, webhooks)
    assert again == (pods, bundle)
    assert bundle == same and bundle.count(b"BEGIN CERTIFICATE") == 1
    token = pods.removeprefix("/mutate/pods/")
    assert runs == f"/mutate/taskruns/{token}" and len(token) >= 32
    for identity in (first, second):
        assert identity.admits(token)
        assert not identity.admits("") and not identity.admits(token[:-1])


def test_a_certificate_that_expired_is_made_anew(kube: Kube, namespace: str, webhooks: str) -> None:
    """The new authority is registered beside the old one while that holds, and a certificate past its time is replaced."""
    short = Place(namespace, f"{namespace}-short", webhooks, ["127.0.0.1"], life=datetime.timedelta(seconds=10))
    identity = Identity(kube, short)
    look(identity)
    before = identity.expiry
    assert before is not None
    eventually(lambda: not identity.ready)
    look(identity)
    assert identity.ready
    assert identity.expiry != before
    assert registered(kube, webhooks)[0][1].count(b"BEGIN CERTIFICATE") == 1


@pytest.mark.parametrize(
    "spoilt",
    [
        {"tokens": b"no json"},
        {"tokens": b'[{"token": "' + b"0" * 48 + b'"}]'},
        {"tokens": b'[{"token": "", "made": "2026-01-02T00:00:00+00:00"}]'},
        {"tokens": b"{}", "made": b"yesterday"},
        {"tokens": b"null", "made": b"2026-01-02T00:00:00"},
        {"made": b"\xff"},
        {"tls.crt": b"\xff", "ca.crt": b"\xff"},
    ],
)
def test_a_spoilt_secret_is_put_right(kube: Kube, namespace: str, webhooks: str, spoilt: dict[str, bytes]) -> None:
    """What cannot be read counts as absent: it is made anew, whoever has it already goes on and whoever comes can begin."""
    place = Place(namespace, f"{namespace}-spoilt", webhooks, ["127.0.0.1"])
    running_one, new = Identity(kube, place), Identity(kube, place)
    look(running_one)
    secret = kube.get(SECRETS, namespace, place.secret)
    secret["data"] |= {key: base64.b64encode(value).decode() for key, value in spoilt.items()}
    kube.update(SECRETS, namespace, secret)
    for identity in (running_one, new):
        look(identity)
        assert identity.ready and not identity.admits("")
        token = registered(kube, webhooks)[0][0].removeprefix("/mutate/pods/")
        assert len(token) >= 32 and identity.admits(token)


def test_what_is_new_waits_until_all_know_it(kube: Kube, namespace: str, webhooks: str) -> None:
    """A renewed certificate is registered at once and used later; a new token is known before it is registered."""
    place = Place(namespace, f"{namespace}-renewed", webhooks, ["127.0.0.1"])
    identity = Identity(kube, place)
    look(identity)
    path, old_bundle = registered(kube, webhooks)[0]
    secret = kube.get(SECRETS, namespace, place.secret)
    tokens = json.loads(base64.b64decode(secret["data"]["tokens"]))
    tokens[0]["made"] = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)).isoformat()
    made = authority.make(["127.0.0.1"], datetime.timedelta(minutes=1))  # issued ten minutes ago: long due
    values = {"tokens": json.dumps(tokens).encode(), "tls.crt": made.pair.certificate, "tls.key": made.pair.key}
    values["ca.crt"] = old_bundle + made.authority
    secret["data"] |= {key: base64.b64encode(value).decode() for key, value in values.items()}
    kube.update(SECRETS, namespace, secret)
    expiry = identity.expiry
    look(identity)
    now_path, bundle = registered(kube, webhooks)[0]
    assert bundle.count(b"BEGIN CERTIFICATE") == 3
    assert (identity.expiry, now_path) == (expiry, path)
    known = json.loads(base64.b64decode(kube.get(SECRETS, namespace, place.secret)["data"]["tokens"]))
    assert len(known) == 2 and all(identity.admits(entry["token"]) for entry in known)


def test_certificates_of_somebody_else(kube: Kube, namespace: str, webhooks: str, tmp_path: Path) -> None:
    """With a directory (cert-manager's Secret) what is there is used, and taken up when it changes."""
    identity = Identity(kube, Place(namespace, "", webhooks, certificate_directory=str(tmp_path)))
    with pytest.raises(OSError, match=r"tls\.crt"):
        identity.look()
    seen = []
    for days in (10, 20):
        pair = authority.make(["127.0.0.1"], datetime.timedelta(days=days)).pair
        (tmp_path / "tls.crt").write_bytes(pair.certificate)
        (tmp_path / "tls.key").write_bytes(pair.key)
        look(identity)
        assert identity.ready
        seen.append(identity.expiry)
    assert seen[0] != seen[1]
    assert registered(kube, webhooks)[0] == ("/mutate/pods", b"")
    assert identity.admits("") and not identity.admits("x")


def test_the_store_away_is_503(
    api: ApiServer, kube: Kube, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store does not answer a run is refused for now, never for good; what needs no content is admitted."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with owned(api, kube, tmp_path, {"store": "s3://bucket/prefix", "s3-endpoint": "http://127.0.0.1:9"}):
        reference = Reference.of(uuid4(), "0" * 64)
        with pytest.raises(ApiError) as caught:
            kube.create(TASK_RUNS, namespace, consumer("away", ("p", str(reference))))
        assert caught.value.status == 503 and "cannot be read now" in str(caught.value)
        kube.create(TASK_RUNS, namespace, consumer("plain", ("p", "text")))
        made = kube.create(PODS, namespace, pod(task_run(kube, namespace, "works")))
        assert "csi" in volume(made)


def test_settings_are_taken_up_while_running(api: ApiServer, kube: Kube, namespace: str, tmp_path: Path) -> None:
    """Changed settings hold without a restart; bad ones are told, and the last good ones stay."""
    settings = {"store": f"file://{tmp_path}/store"}
    with owned(api, kube, tmp_path, settings) as replica:
        file = tmp_path / "replica" / "settings.yaml"
        for text, words in (
            ("param-inline-limit: nonsense\n", "not taken up: [^\n]*param-inline-limit is 'nonsense'"),
            ("store: s4://bucket\n", "not taken up: [^\n]*unknown scheme 's4'"),
            ("spill-delay: 1s\n", "not taken up: [^\n]*store is not set"),
        ):
            file.write_text(text)
            eventually(partial(found, replica.log, words))
        reference = Reference.of(uuid4(), hashlib.sha256(b"content").hexdigest())
        with contextlib.closing(Store.open(Settings(store=settings["store"]))) as store:
            store.put(Key.of(namespace, reference), lambda: iter([b"content"]), len(b"content"))
        made = kube.create(TASK_RUNS, namespace, consumer("has", ("p", str(reference))))
        assert made["spec"]["params"][0]["value"] == "content"
        file.write_text(yaml.safe_dump({**settings, "observe": "true"}))
        eventually(lambda: "settings taken up" in replica.log.read_text())
        assert "csi" not in volume(kube.create(PODS, namespace, pod(task_run(kube, namespace, "watched"))))


def found(log: Path, words: str) -> bool:
    """Whether a log has it."""
    return re.search(words, log.read_text()) is not None


def test_an_api_server_that_restarts(api: ApiServer, kube: Kube, namespace: str, tmp_path: Path) -> None:
    """The replica goes on by itself when the API server is back."""
    with owned(api, kube, tmp_path, {"store": f"file://{tmp_path}/store"}) as replica:
        api.restart()
        eventually(lambda: can(lambda: kube.create(TASK_RUNS, namespace, consumer("after", ("p", "text")))))
        run = kube.create(TASK_RUNS, namespace, consumer("later"))
        made = []
        eventually(lambda: can(lambda: made.append(kube.create(PODS, namespace, pod(run)))))
        assert "csi" in volume(made[0])
        assert replica.process.poll() is None


def can(action: Callable[[], object]) -> bool:
    """Whether the API server does it."""
    try:
        action()
    except ApiError:
        return False
    return True


def test_it_ends_when_it_is_told(api: ApiServer, tmp_path: Path) -> None:
    """SIGTERM ends it with 0, and nothing of it is left; before, it was alive and ready."""
    with running(api, tmp_path, {"store": f"file://{tmp_path}/store"}) as replica:
        assert replica.get("/healthz") == (200, "ok\n")
        assert "resultsfs_certificate_expiry_timestamp_seconds" in replica.get("/metrics")[1]
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(60) == 0
        assert "Traceback" not in replica.log.read_text()
