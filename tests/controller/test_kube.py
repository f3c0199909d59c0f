"""The client of the API server against servers that misbehave; whether it works at all, all other tests show."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from controller.garbage.watching import Watch
from controller.kube import client, endpoint
from controller.kube.client import Kube
from controller.kube.endpoint import Endpoint, TokenFile
from controller.kube.errors import ApiError, ApiUnavailable, Conflict, Gone, NotFound
from controller.kube.resources import CONFIG_MAPS, TASK_RUNS
from tests.support.waiting import eventually

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[Kube]:
    """A client of a server that answers every request in that way."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        kube = Kube(Endpoint(f"http://127.0.0.1:{running.server_address[1]}"), timeout=60)
        try:
            yield kube
        finally:
            kube.close()
            running.shutdown()
            thread.join()


def say(status: int, tree: object) -> Answer:
    """An answer with this status and JSON."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = tree if isinstance(tree, bytes) else json.dumps(tree).encode() + b"\n"
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (409, Conflict), (410, Gone), (429, ApiUnavailable), (500, ApiUnavailable), (403, ApiError)],
)
def test_each_refusal_is_an_error_of_its_own(status: int, kind: type[ApiError]) -> None:
    """Only 404 is absence; the message has the server's own words."""
    with server(say(status, {"message": "in its own words"})) as kube, pytest.raises(kind, match="own words") as caught:
        kube.get(CONFIG_MAPS, "n", "x")
    assert type(caught.value) is kind and caught.value.status == status


@pytest.mark.parametrize("body", [b"", b"not json", b"[]"])
def test_an_answer_that_is_none_is_no_absence(body: bytes) -> None:
    """Half an answer, or somebody else's, is an error like a server that does not answer."""
    with server(say(200, body)) as kube:
        with pytest.raises(ApiUnavailable):
            kube.get(CONFIG_MAPS, "n", "x")
        with pytest.raises(ApiUnavailable):
            kube.list(TASK_RUNS)


def test_nobody_there() -> None:
    """A connection that cannot be made is an error that asking again can help."""
    kube = Kube(Endpoint("http://127.0.0.1:9"))
    with pytest.raises(ApiUnavailable):
        kube.get(CONFIG_MAPS, "n", "x")
    kube.close()


def test_a_watch_that_stalls_silently_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends nothing and closes nothing does not hold a watch for ever."""
    monkeypatch.setattr(client, "SLACK", 4.0)  # the answer's head must come within it, and the second
    over = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        over.wait(60)

    with server(hang) as kube:
        try:
            with pytest.raises(ApiUnavailable, match="nothing came"):
                list(kube.watch(TASK_RUNS, "1", timeout=1))
        finally:
            over.set()


def test_a_watch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is too old begins with a list, and says that something was missed; after errors the watch goes on
    where it was, and after an event behind that."""
    monkeypatch.setattr("controller.garbage.watching._PAUSE", 0.01)
    told: list[str] = []
    asked: list[str] = []
    too_old: list[str] = []
    missed = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        if "watch=true" not in handler.path:
            say(200, {"metadata": {"resourceVersion": "7"}, "items": []})(handler)
        elif len(asked) < 6:
            too_old.append("x")
            gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
            say(200, gone)(handler)
        elif len(asked) < 10:
            say(500, {"message": "down"})(handler)
        else:
            metadata = {"namespace": "team", "resourceVersion": "8"}
            say(200, {"type": "DELETED", "object": {"metadata": metadata}})(handler)

    with server(answer) as kube:
        watch = Watch(kube, told.append, missed.set)
        watch.start()
        eventually(lambda: any("resourceVersion=8" in path for path in asked))
        watch.stop()
    assert "team" in told and missed.is_set()
    lists = [path for path in asked if "watch=true" not in path]
    assert len(lists) <= 2 + len(too_old)  # of two kinds of runs; none after the errors


def test_a_token_that_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service account's token is read again before the old one expires."""
    file = tmp_path / "token"
    file.write_text("one\n")
    token = TokenFile(file)
    assert token() == "Bearer one"
    file.write_text("two\n")
    assert token() == "Bearer one"
    monkeypatch.setattr(endpoint, "TOKEN_LIFE", 0.0)
    assert token() == "Bearer two"
