"""A webhook configuration that somebody spoilt, or brought back from before, is put right by the replica itself."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from controller import authority
from controller.kube.client import Kube
from controller.kube.errors import ApiError
from controller.kube.resources import MUTATING_WEBHOOKS, TASK_RUNS, Tree
from resultsfs.reference import Reference
from resultsfs.settings import Settings
from resultsfs.store import Store
from tests.controller.apiserver import ApiServer
from tests.controller.replica import owned
from tests.controller.test_admission_runs import params, task_run
from tests.support.stores import key_of, put
from tests.support.waiting import eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.slow, pytest.mark.timeout(600)]

NAME = "resultsfs"
Spoil = Callable[[Tree], None]


@dataclass
class Asked:
    """A replica that the API server asks, seen by what becomes of a TaskRun with a reference."""

    kube: Kube
    namespace: str
    reference: str
    numbers: Iterator[int]

    def answers(self) -> bool:
        """Whether a TaskRun is created, with content in place of its reference."""
        name = f"run-{next(self.numbers)}"
        try:
            made = self.kube.create(TASK_RUNS, self.namespace, task_run(name, ("p", self.reference)))
        except ApiError:
            return False
        return params(made) == {"p": "content"}


@pytest.fixture
def asked(api: ApiServer, kube: Kube, namespace: str, tmp_path: Path) -> Iterator[Asked]:
    """One that works."""
    store = Store.open(Settings(store=f"file://{tmp_path}/store"))
    key = put(store, b"content", key_of(b"content", namespace))
    store.close()
    with owned(api, kube, tmp_path, {"store": store.url}):
        found = Asked(kube, namespace, str(Reference.of(key.run, key.sha256)), iter(range(1 << 30)))
        eventually(found.answers)
        yield found


def _path(path: Callable[[str], str]) -> Spoil:
    def spoil(client: Tree) -> None:
        parts = urlsplit(client["url"])
        client["url"] = urlunsplit(parts._replace(path=path(parts.path)))

    return spoil


def _stranger(client: Tree) -> None:
    made = authority.make(["127.0.0.1"], datetime.timedelta(days=1))
    client["caBundle"] = base64.b64encode(made.authority).decode()


@pytest.mark.parametrize(
    "spoil",
    [
        _path(lambda path: f"{path[:-8]}deadbeef"),
        _path(lambda path: path.rpartition("/")[0]),
        _path(lambda path: "/"),
        _path(lambda path: f"/somewhere/else{path}"),
        _stranger,
        lambda client: client.pop("caBundle"),
    ],
    ids=["an old token", "no token", "no path", "another path", "another authority", "no authority"],
)
def test_what_was_spoilt_heals(asked: Asked, spoil: Spoil) -> None:
    """An old token, the path as a repository has it, or none, another authority: soon the webhooks work again."""
    before = asked.kube.get(MUTATING_WEBHOOKS, None, NAME)
    spoilt = asked.kube.get(MUTATING_WEBHOOKS, None, NAME)
    for webhook in spoilt["webhooks"]:
        spoil(webhook["clientConfig"])
    eventually(lambda: _put(asked.kube, spoilt["webhooks"]))
    eventually(lambda: asked.kube.get(MUTATING_WEBHOOKS, None, NAME)["webhooks"] == before["webhooks"])
    eventually(asked.answers)


def _put(kube: Kube, webhooks: list[Tree]) -> bool:
    """Whether the configuration was replaced; not where the replica was at it in that moment."""
    found = kube.get(MUTATING_WEBHOOKS, None, NAME)
    try:
        kube.update(MUTATING_WEBHOOKS, None, {**found, "webhooks": webhooks})
    except ApiError:
        return False
    return True


def test_a_configuration_that_was_deleted(asked: Asked) -> None:
    """Made again as the chart makes it, it is registered with, and the replica has served on."""
    found = asked.kube.get(MUTATING_WEBHOOKS, None, NAME)
    asked.kube.delete(MUTATING_WEBHOOKS, None, NAME)
    for webhook in found["webhooks"]:
        webhook["clientConfig"].pop("caBundle")
        _path(lambda path: path.rpartition("/")[0])(webhook["clientConfig"])
    asked.kube.create(MUTATING_WEBHOOKS, None, {"metadata": {"name": NAME}, "webhooks": found["webhooks"]})
    eventually(asked.answers)
