"""`api-redirect`: the HTTP API answers with a presigned URL, and a client that knows nothing of it gets the content."""

from __future__ import annotations

import hashlib
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from controller.kube.client import Kube
from resultsfs.settings import to_mapping
from resultsfs.store import Store
from tests.controller.apiserver import ApiServer
from tests.controller.conftest import Serving
from tests.controller.replica import account_kubeconfig, running
from tests.controller.test_admission_runs import spilled
from tests.controller.test_api import LARGE, Client, allow, ended, made, token
from tests.controller.test_commands import Run, command_of
from tests.support.s3server import S3Server

pytestmark = [pytest.mark.apiserver, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def redirecting(api: ApiServer, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A replica with a store that can sign, and leave to do so."""
    home = tmp_path_factory.mktemp("redirecting")
    settings = s3_server.settings()
    store = Store.open(settings)
    more = {"api-redirect": "true", "api-redirect-expiry": "30s"}
    try:
        with running(api, home, {**to_mapping(settings), **more}) as replica:
            yield Serving(replica, store, api, home)
    finally:
        store.close()


@pytest.fixture
def client(redirecting: Serving, kube: Kube, namespace: str) -> Iterator[Client]:
    """A reader who may get the namespace's runs."""
    allow(kube, namespace, "reader")
    yield from made(redirecting, token(kube, namespace, "reader"))


def fetch(client: Client, path: str, trusted: ssl.SSLContext, **headers: str) -> tuple[int, bytes, str]:
    """Status, content and last URL, by the standard library's client, which follows redirects."""
    request = urllib.request.Request(client.url + path, headers=headers)
    request.add_unredirected_header("Authorization", f"Bearer {client.token}")
    with urllib.request.urlopen(request, context=trusted, timeout=60) as answer:
        return answer.status, answer.read(), answer.url


def test_a_plain_client_follows_to_the_content(
    redirecting: Serving, kube: Kube, namespace: str, client: Client
) -> None:
    """The whole and a range come from the store itself, by a URL that no credentials go with and that ends."""
    large = spilled(redirecting, namespace, LARGE)
    path = f"{ended(kube, namespace, 'far', large=str(large))}/large"
    trusted: ssl.SSLContext = client.pool.connection_pool_kw["ssl_context"]
    status, content, url = fetch(client, path, trusted)
    assert (status, content) == (200, LARGE)
    assert hashlib.sha256(content).hexdigest() == large.sha256
    assert not url.startswith(client.url)
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["30"]
    assert fetch(client, path, trusted, Range="bytes=5-9")[1] == LARGE[5:10]  # which this server calls 200
    answer = client.ask(path)
    assert (answer.status, answer.data) == (307, b"")
    assert client.token not in str(dict(answer.headers))
    head = client.ask(path, "HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(LARGE)))


def test_the_url_opens_that_content_alone(redirecting: Serving, kube: Kube, namespace: str, client: Client) -> None:
    """With another key, or another end, its signature is none."""
    one, other = (spilled(redirecting, namespace, text * 5000) for text in "ab")
    url = client.ask(f"{ended(kube, namespace, 'far', one=str(one))}/one").headers["Location"]
    assert one.sha256 in url and str(one.run) in url
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.read() == b"a" * 5000
    swapped = url.replace(one.sha256, other.sha256).replace(str(one.run), str(other.run))
    for forged in (swapped, url.replace("X-Amz-Expires=30", "X-Amz-Expires=3000"), url.partition("?")[0]):
        assert forged != url
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(forged, timeout=60)
        with caught.value:
            assert caught.value.code in (400, 403)


def test_only_what_lies_alone_is_redirected_and_only_for_who_may_read(
    redirecting: Serving, kube: Kube, namespace: str, client: Client
) -> None:
    """What is in status, or put together, is answered here; without rights there is no URL."""
    large = spilled(redirecting, namespace, LARGE)
    text = spilled(redirecting, namespace, "no json" * 1000)
    path = ended(kube, namespace, "near", small="yes", list=["x", str(large)], large=str(large), text=str(text))
    assert client.ask(f"{path}/small").data == b"yes"
    assert client.ask(f"{path}/list").json() == ["x", LARGE.decode()]
    assert client.ask(f"{path}/text?jsonpath=$").status == 422  # it is no JSON, and was looked at here
    for stranger in made(redirecting, token(kube, namespace, "nobody")):
        answer = stranger.ask(f"{path}/large")
        assert answer.status == 403 and "Location" not in answer.headers


def test_the_command_follows_too(
    redirecting: Serving, kube: Kube, namespace: str, client: Client, tmp_path: Path
) -> None:
    """`resultsfs get --api` gets the content by the redirect, and proves it."""
    large = spilled(redirecting, namespace, LARGE)
    ended(kube, namespace, "far", large=str(large))
    run: Run = command_of(redirecting, tmp_path)
    config = account_kubeconfig(redirecting.api, kube, "reader", namespace)
    words = ["get", "taskrun/far", "large", "--api", redirecting.replica.https, "-n", namespace]
    answer = run(*words, kubeconfig=config, trusted=True)
    assert (answer.returncode, answer.stdout) == (0, LARGE), answer.stderr
    log = [line for line in redirecting.replica.log.read_text().splitlines() if '"far"' in line]
    assert json.loads(log[-1].partition(": ")[2])["status"] == 307
