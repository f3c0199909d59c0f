"""What one caller, one address and all together may ask of the HTTP API, of a replica with small limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import urllib3

from controller.kube.client import Kube
from resultsfs.settings import Settings
from resultsfs.store import Store
from tests.controller.apiserver import ApiServer
from tests.controller.conftest import Serving
from tests.controller.replica import running
from tests.controller.test_admission_runs import spilled
from tests.controller.test_api import Client, allow, ended, made, token
from tests.support.waiting import eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

LARGE = b"0123456789abcdef" * (4 << 20)
"""64 MiB: more than any socket takes from a sender whose receiver does not read."""


@contextmanager
def serving(api: ApiServer, home: Path, *arguments: str, **limits: str) -> Iterator[Serving]:
    """A replica with these settings, and its store."""
    settings = {"store": f"file://{home}/store", **{key.replace("_", "-"): value for key, value in limits.items()}}
    store = Store.open(Settings(store=settings["store"]))
    try:
        with running(api, home / "replica", settings, *arguments) as replica:
            yield Serving(replica, store, api, home)
    finally:
        store.close()


def asked(kube: Kube) -> int:
    """TokenReviews that the API server has answered."""
    text = kube.raw("/metrics").decode()
    return sum(
        int(found) for found in re.findall(r'^apiserver_request_total{.*resource="tokenreviews".*} (\d+)$', text, re.M)
    )


def test_a_caller_and_an_address_are_slowed_down(api: ApiServer, kube: Kube, namespace: str, tmp_path: Path) -> None:
    """With one request a minute the second of a caller is 429; so is that of an address whose token was unknown, and the
    API server is not asked whose the next one is."""
    path = ended(kube, namespace, "limited", value="yes")
    allow(kube, namespace, "reader")
    with serving(api, tmp_path, api_request_rate="1") as found, ExitStack() as stack:

        def client(bearer: str) -> Client:
            return stack.enter_context(contextmanager(made)(found, bearer))

        reader = client(token(kube, namespace, "reader"))
        assert reader.ask(path).status == 200
        again = reader.ask(path)
        assert again.status == 429 and "api-request-rate" in again.json()["error"]
        assert 1 <= int(again.headers["Retry-After"]) <= 60
        before = asked(kube)
        assert client("unknown").ask(path).status == 401
        eventually(lambda: asked(kube) == before + 1)
        refused = client("another").ask(path)
        assert refused.status == 429 and "api-request-rate" in refused.json()["error"]
        assert asked(kube) == before + 1


def test_downloads_are_counted(api: ApiServer, kube: Kube, namespace: str, tmp_path: Path) -> None:
    """While one content is sent to somebody who does not read it, a second one is 503; when that one has gone, 200."""
    for account in ("first", "second"):
        allow(kube, namespace, account)
    with serving(api, tmp_path, api_downloads="1") as found, ExitStack() as stack:
        path = ended(kube, namespace, "limited", large=str(spilled(found, namespace, LARGE)), small="yes")
        first, second = (
            stack.enter_context(contextmanager(made)(found, token(kube, namespace, account)))
            for account in ("first", "second")
        )
        headers = {"Authorization": f"Bearer {first.token}"}
        answer = first.pool.request("GET", f"{first.url}{path}/large", headers=headers, preload_content=False)
        try:
            assert answer.status == 200
            refused = second.ask(f"{path}/small")
            assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
            assert "api-downloads" in refused.json()["error"]
        finally:
            answer.close()
        eventually(lambda: second.ask(f"{path}/small").status == 200)


def test_whoever_does_not_read_is_broken_off(api: ApiServer, kube: Kube, namespace: str, tmp_path: Path) -> None:
    """A caller that takes nothing loses its place to the next one while its connection is still open, gets no whole
    content, and the audit log says why."""
    for account in ("first", "second"):
        allow(kube, namespace, account)
    with serving(api, tmp_path, "--patience=1", api_downloads="1") as found, ExitStack() as stack:
        path = ended(kube, namespace, "limited", large=str(spilled(found, namespace, LARGE)), small="yes")
        first, second = (
            stack.enter_context(contextmanager(made)(found, token(kube, namespace, account)))
            for account in ("first", "second")
        )
        headers = {"Authorization": f"Bearer {first.token}"}
        answer = first.pool.request("GET", f"{first.url}{path}/large", headers=headers, preload_content=False)
        try:
            assert answer.status == 200
            eventually(lambda: second.ask(f"{path}/small").status == 200)
            assert "the caller took nothing for 1 s" in found.replica.log.read_text()
            with pytest.raises(urllib3.exceptions.HTTPError):
                while answer.read(1 << 20):
                    pass
        finally:
            answer.close()
