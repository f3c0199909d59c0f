"""The HTTP API as clients see it: real tokens, real rights, real content."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3

from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.kube.resources import SECRETS, TASK_RUNS
from resultsfs.store import Key
from tests.controller.conftest import Serving
from tests.controller.replica import RESOURCES
from tests.controller.test_admission_runs import spilled
from tests.support.waiting import eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

LARGE = ("0123456789abcdef" * 65536 * 6).encode()  # 6 MiB, more than one block


@dataclass
class Client:
    """Asks with a token."""

    pool: urllib3.PoolManager
    url: str
    token: str

    def ask(self, path: str, method: str = "GET", **headers: str) -> urllib3.BaseHTTPResponse:
        """One request; nothing is followed or repeated."""
        given = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.pool.request(method, self.url + path, headers=given, retries=False, redirect=False, timeout=60)


def token(kube: Kube, namespace: str, account: str) -> str:
    """A token of a service account that is made for it."""
    accounts = RESOURCES["ServiceAccount"]
    kube.create(accounts, namespace, {"metadata": {"name": account}})
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    found: str = kube.post(accounts.path(namespace, account, "token"), body)["status"]["token"]
    return found


def allow(kube: Kube, namespace: str, account: str, **rule: list[str]) -> None:
    """Let a service account `get` TaskRuns."""
    rules = [
        {"apiGroups": ["tekton.dev"], "resources": ["taskruns", "pipelineruns", "customruns"], "verbs": ["get"], **rule}
    ]
    kube.create(RESOURCES["Role"], namespace, {"metadata": {"name": account}, "rules": rules})
    binding = {
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
    kube.create(RESOURCES["RoleBinding"], namespace, binding)


@pytest.fixture
def client(serving_replica: Serving, kube: Kube, namespace: str) -> Iterator[Client]:
    """A reader who may get the namespace's runs."""
    allow(kube, namespace, "reader")
    yield from made(serving_replica, token(kube, namespace, "reader"))


def made(serving: Serving, bearer: str) -> Iterator[Client]:
    """A client; its connections are closed afterwards."""
    kube = Kube(from_kubeconfig(str(serving.api.admin)))
    secret = kube.get(SECRETS, "resultsfs", "resultsfs-controller-certificate")
    kube.close()
    context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
    pool = urllib3.PoolManager(ssl_context=context)
    yield Client(pool, serving.replica.https, bearer)
    pool.clear()


def ended(kube: Kube, namespace: str, name: str, **values: Any) -> str:
    """A TaskRun with these results; the path of them."""
    tree = {"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": name}, "spec": {}}
    kube.create(TASK_RUNS, namespace, tree)
    types: dict[Any, str] = {str: "string", list: "array", dict: "object"}
    results = [{"name": key, "type": types[type(value)], "value": value} for key, value in values.items()]
    kube.merge(TASK_RUNS.path(namespace, name, "status"), {"status": {"podName": "", "results": results}})
    return f"/v1/namespaces/{namespace}/taskruns/{name}/results"


def test_results_of_all_kinds_come_back(serving_replica: Serving, kube: Kube, namespace: str, client: Client) -> None:
    """Inline text, spilled content, and arrays and objects of which parts are spilled, listed with sizes and read."""
    large = spilled(serving_replica, namespace, LARGE)
    part = spilled(serving_replica, namespace, "p" * 5000)
    whole = spilled(serving_replica, namespace, json.dumps(["a", "b"]))
    path = ended(
        kube, namespace, "all",
        small="yes", large=str(large), array=["x", str(part)], object={"k": str(part), "o": ""}, whole=[f"{whole}[*]"],
    )  # fmt: skip
    listed = client.ask(path)
    assert listed.status == 200
    found = {result["name"]: result for result in listed.json()["results"]}
    assert found["small"] == {
        "name": "small",
        "type": "string",
        "size": 3,
        "sha256": hashlib.sha256(b"yes").hexdigest(),
        "spilled": False,
        "available": True,
    }
    assert (found["large"]["size"], found["large"]["sha256"]) == (len(LARGE), large.sha256)
    assert found["array"]["spilled"] and found["array"]["size"] is None

    assert client.ask(f"{path}/small").data == b"yes"
    assert client.ask(f"{path}/array").json() == ["x", "p" * 5000]
    assert client.ask(f"{path}/object").json() == {"k": "p" * 5000, "o": ""}
    assert client.ask(f"{path}/whole").json() == ["a", "b"]
    answer = client.ask(f"{path}/large")
    assert answer.data == LARGE
    assert answer.headers["ETag"] == f'"{large.sha256}"'
    digest = base64.b64encode(large.digest).decode()
    assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"


def test_head_ranges_and_conditions(serving_replica: Serving, kube: Kube, namespace: str, client: Client) -> None:
    """HEAD tells size and digest; ranges are answered exactly; who has the content is not sent it again."""
    large = spilled(serving_replica, namespace, LARGE)
    path = ended(kube, namespace, "ranges", large=str(large), small="0123456789") + "/large"
    head = client.ask(path, "HEAD")
    for part in ("bytes=0-0", "bytes=99999999-"):
        whole = client.ask(path, "HEAD", Range=part)
        assert (whole.status, whole.headers["Content-Length"]) == (200, str(len(LARGE)))
        assert "Content-Range" not in whole.headers
    assert (head.status, head.headers["Content-Length"], head.data) == (200, str(len(LARGE)), b"")
    assert head.headers["ETag"] == f'"{large.sha256}"'
    for asked, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        (f"bytes={4 << 20}-", 4 << 20, len(LARGE)),
        ("bytes=-7", len(LARGE) - 7, len(LARGE)),
        (f"bytes=10-{len(LARGE) * 2}", 10, len(LARGE)),
    ):
        answer = client.ask(path, Range=asked)
        assert (answer.status, answer.data) == (206, LARGE[start:end]), asked
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(LARGE)}"
    assert client.ask(path, Range=f"bytes={len(LARGE)}-").status == 416
    assert client.ask(path, Range="bytes=0-1,5-6").status == 200
    assert client.ask(path, Range="bytes=0-1", If_Range='"other"').status == 200
    assert client.ask(path, If_None_Match=f'"x", "{large.sha256}"').status == 304
    inline = client.ask(path.replace("/large", "/small"), Range="bytes=2-4")
    assert (inline.status, inline.data) == (206, b"234")


def test_jsonpath(serving_replica: Serving, kube: Kube, namespace: str, client: Client) -> None:
    """A query answers what matches as JSON, and says what is wrong with it or with the content."""
    content = json.dumps({"items": [{"name": "a", "n": 1}, {"name": "b", "n": 2}], "pad": "x" * 5000})
    path = ended(kube, namespace, "query", json=str(spilled(serving_replica, namespace, content)), text="no json")
    answer = client.ask(f"{path}/json?jsonpath=$.items[?@.n>1].name")
    assert (answer.status, answer.json()) == (200, ["b"])
    assert client.ask(f"{path}/json?jsonpath=$..nothing").json() == []
    assert client.ask(f"{path}/json?jsonpath=$[").status == 400
    assert client.ask(f"{path}/text?jsonpath=$").status == 422
    slow = "$" + "..*" * 9
    assert client.ask(f"{path}/json?jsonpath={slow}").status in (200, 422)


def test_only_who_may_get_the_run_reads_it(
    serving_replica: Serving, kube: Kube, namespace: str, client: Client
) -> None:
    """No token, a wrong one, no rights, rights for another name: each is refused, and existence is not told."""
    path = ended(kube, namespace, "secret", value="secret")
    assert client.ask(path).status == 200
    for bearer, status in (("", 401), ("forged", 401), (token(kube, namespace, "nobody"), 403)):
        for stranger in made(serving_replica, bearer):
            answer = stranger.ask(f"{path}/value")
            assert (answer.status, b"secret" in answer.data.replace(b"/secret", b"")) == (status, False)
            assert stranger.ask(path.replace("/secret/", "/missing/")).status == status
    allow(kube, namespace, "one", resourceNames=["other"])
    for limited in made(serving_replica, token(kube, namespace, "one")):
        assert limited.ask(path).status == 403
        assert limited.ask(path.replace("/secret/", "/other/")).status == 404
    assert client.ask(path.replace(namespace, "default")).status == 403


def test_what_is_not_there_or_wrong_is_said(
    serving_replica: Serving, kube: Kube, namespace: str, client: Client
) -> None:
    """Missing results name those there are; expired content is 410; wrong bytes never end like right ones."""
    gone = spilled(serving_replica, namespace, "g" * 5000)
    broken = spilled(serving_replica, namespace, LARGE)
    path = ended(kube, namespace, "faults", gone=str(gone), broken=str(broken))
    missing = client.ask(f"{path}/nothing")
    assert missing.status == 404 and "gone, broken" in missing.json()["error"]
    serving_replica.store.delete_run(namespace, gone.run)
    assert client.ask(f"{path}/gone").status == 410
    assert client.ask(path).json()["results"][0]["available"] is False
    where = serving_replica.store.location(Key.of(namespace, broken)).removeprefix("file://")
    with open(where, "r+b") as file:
        file.seek(len(LARGE) - 1)
        file.write(b"!")
    with pytest.raises(urllib3.exceptions.ProtocolError):
        _ = client.ask(f"{path}/broken").data


def test_every_access_leaves_a_line(serving_replica: Serving, kube: Kube, namespace: str, client: Client) -> None:
    """The audit line has who, what, how much and how it ended."""
    path = ended(kube, namespace, "audited", value="four")
    client.ask(f"{path}/value", Range="bytes=1-2")

    def lines() -> list[str]:
        return [line for line in serving_replica.replica.log.read_text().splitlines() if '"audited"' in line]

    eventually(lambda: bool(lines()))  # it is written when all is sent, which the reader may see a moment before
    entry = json.loads(lines()[-1].partition(": ")[2])
    assert entry["user"] == f"system:serviceaccount:{namespace}:reader"
    wanted = {
        "namespace": namespace,
        "kind": "taskruns",
        "name": "audited",
        "result": "value",
        "status": 206,
        "bytes": 2,
    }
    assert entry.items() >= wanted.items()
    assert client.token not in serving_replica.replica.log.read_text()
