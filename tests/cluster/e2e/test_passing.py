"""Large results from pod to pod by path, to whoever may read them by the HTTP API, and to people by kubectl."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3

from resultsfs.reference import Reference
from tests.cluster.images import recipes
from tests.cluster.installation import SYSTEM, Installation
from tests.cluster.kube import SERVICE_ACCOUNT, Kind, Kube, Manifest
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import Places
from tests.cluster.room import Room, outcome, results, succeeded
from tests.cluster.test_pipelines import makes, pipelinerun, reading, uses
from tests.cluster.test_results import DEADLINE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SECRET = Kind("v1", "Secret")
SERVICE = Kind("v1", "Service")
HOST = "resultsfs-controller.resultsfs.svc"
ROLE = "rbac.authorization.k8s.io/v1"
COMPONENTS = 600
"""Of the bill of materials: some 130 kB, more than any param takes."""


@pytest.mark.parametrize("mib", [200, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_large_result_by_path(hall: Room, mib: int) -> None:
    """Random content that no param could hold is read by another pod as a file, and its SHA-256 is the same."""
    run = hall.run(_by_path(mib), deadline=DEADLINE)
    assert succeeded(run), outcome(run)
    runs = hall.taskruns(run)
    found = results(runs["make"])
    reference = Reference.match(found["large"])
    assert reference is not None
    assert reference.sha256 == found["digest"]
    assert hall.log(runs["use"], "read").split() == [found["digest"], "-"]


def _by_path(mib: int) -> Manifest:
    write = f"head -c {mib << 20} /dev/urandom > $(results.large.path)"
    digest = "sha256sum < $(results.large.path) | head -c 64 > $(results.digest.path)"
    run = pipelinerun(
        f"path-{mib}",
        makes(f"{write}; {digest}", ["large", "digest"]),
        uses("use", "$(tasks.make.results.large)", reading('sha256sum < "$VALUE"')),
    )
    run["metadata"]["annotations"] = {"resultsfs.dev/params-as-path": "true"}
    return run


@dataclass(frozen=True)
class Built:
    """A PipelineRun that made a bill of materials, which is its result too, and the document's SHA-256."""

    room: Room
    run: Manifest
    sha256: str


_PROGRAM = f"""
import hashlib, json
licences = [{{"license": {{"id": "Apache-2.0"}}}}]
components = [
    {{
        "type": "library",
        "name": f"component-{{number}}",
        "version": f"1.{{number}}.0",
        "purl": f"pkg:pypi/component-{{number}}@1.{{number}}.0",
        "licenses": licences,
    }}
    for number in range({COMPONENTS})
]
text = json.dumps({{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}})
open("$(results.sbom.path)", "w").write(text)
open("$(results.sha256.path)", "w").write(hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def built(hall: Room) -> Built:
    """A bill of materials (CycloneDX) of many components, made by a step, is a result of its pipeline."""
    names = ["sbom", "sha256"]
    make = makes("", names)
    make["taskSpec"]["steps"][0] |= {"image": recipes.python().reference, "command": ["python3", "-c", _PROGRAM]}
    declared = [{"name": name, "value": f"$(tasks.make.results.{name})"} for name in names]
    run = hall.run(pipelinerun("sbom", make, results=declared), deadline=DEADLINE)
    assert succeeded(run), outcome(run)
    found = results(run)
    reference = Reference.match(found["sbom"])
    assert reference is not None
    assert reference.sha256 == found["sha256"]
    return Built(hall, run, found["sha256"])


class Api:
    """The HTTP API at its Service's address, trusted by the controller's own authority."""

    def __init__(self, kube: Kube) -> None:
        authority = kube.get(SECRET, "resultsfs-controller-certificate", SYSTEM)["data"]["ca.crt"]
        self.authority = base64.b64decode(authority).decode()
        self.address: str = kube.get(SERVICE, "resultsfs-controller", SYSTEM)["spec"]["clusterIP"]
        context = ssl.create_default_context(cadata=self.authority)
        self._pool = urllib3.HTTPSConnectionPool(
            self.address, 443, ssl_context=context, server_hostname=HOST, assert_hostname=HOST
        )

    def get(self, path: str, token: str) -> urllib3.BaseHTTPResponse:
        """An answer, with its whole body; nothing is repeated."""
        return self._pool.request("GET", path, headers={"Authorization": f"Bearer {token}"}, retries=False, timeout=60)

    def close(self) -> None:
        """Close connections."""
        self._pool.close()


@pytest.fixture
def api(kube: Kube, resultsfs: Installation) -> Iterator[Api]:
    """The HTTP API as this machine reaches it."""
    found = Api(kube)
    yield found
    found.close()


@pytest.fixture(scope="module")
def readers(cluster: Places, kube: Kube, hall: Room) -> dict[str, str]:
    """Tokens of two service accounts: `may` get runs in the namespace, `may-not` none."""
    rules = [{"apiGroups": ["tekton.dev"], "resources": ["taskruns", "pipelineruns"], "verbs": ["get", "list"]}]
    accounts = [
        {"apiVersion": SERVICE_ACCOUNT.api_version, "kind": SERVICE_ACCOUNT.kind, "metadata": {"name": name}}
        for name in ("may", "may-not")
    ]
    role = {"apiVersion": ROLE, "kind": "Role", "metadata": {"name": "may"}, "rules": rules}
    binding = {
        "apiVersion": ROLE,
        "kind": "RoleBinding",
        "metadata": {"name": "may"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "may"},
        "subjects": [{"kind": "ServiceAccount", "name": "may", "namespace": hall.name}],
    }
    kube.apply([*accounts, role, binding], hall.name)
    kubectl = [*Cluster(cluster).kubectl(), "--namespace", hall.name, "create", "token"]
    return {
        name: subprocess.run([*kubectl, name], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
        for name in ("may", "may-not")
    }


@pytest.mark.parametrize("kind", ["pipelineruns", "taskruns"])
def test_a_bill_of_materials_by_the_http_api(built: Built, api: Api, readers: dict[str, str], kind: str) -> None:
    """With a token that may get the run the whole document comes; to one that may not it is 403, to none 401."""
    run = built.run if kind == "pipelineruns" else built.room.taskruns(built.run)["make"]
    path = f"/v1/namespaces/{built.room.name}/{kind}/{run['metadata']['name']}/results/sbom"
    answer = api.get(path, readers["may"])
    assert answer.status == 200, answer.data[:300]
    assert hashlib.sha256(answer.data).hexdigest() == built.sha256
    document = json.loads(answer.data)
    assert document["bomFormat"] == "CycloneDX"
    assert len(document["components"]) == COMPONENTS
    refused = api.get(path, readers["may-not"])
    assert refused.status == 403
    assert b"component-1" not in refused.data
    assert api.get(path, "nobody").status == 401
    only = api.get(f"{path}?jsonpath=$.components[7].name", readers["may"])
    assert b"component-7" in only.data


def test_by_kubectls_plugin(built: Built, api: Api, cluster: Places, readers: dict[str, str], tmp_path: Path) -> None:
    """`kubectl resultsfs` lists a PipelineRun's results and fetches one, by the HTTP API, with the user's own token."""
    kubectl = Path(Cluster(cluster).kubectl()[0])
    trusted = tmp_path / "ca.crt"
    trusted.write_text(api.authority)
    (tmp_path / "kubectl").symlink_to(kubectl)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SSL_CERT_FILE": str(trusted),
        "RESULTSFS_API": f"https://{HOST}",
    }
    hosts = tmp_path / "hosts"  # as the cluster's DNS has it
    hosts.write_text(f"{api.address} {HOST}\n127.0.0.1 localhost\n")
    resolving = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]

    def plugin(reader: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        config = tmp_path / f"{reader}.kubeconfig"
        config.write_text(json.dumps(_config(cluster, readers[reader], built.room.name)))
        more = {**environment, "KUBECONFIG": str(config)}
        command = [*resolving, "kubectl", "resultsfs", *words]
        return subprocess.run(command, capture_output=True, env=more, timeout=120, check=False)

    listed = plugin("may", "list", "pipelinerun/sbom", "--output", "json")
    assert listed.returncode == 0, listed.stderr
    rows = {(row["task"], row["name"]): row for row in json.loads(listed.stdout)["results"]}
    assert set(rows) == {(task, name) for task in ("make", "(pipeline)") for name in ("sbom", "sha256")}
    assert all(row["sha256"] == built.sha256 for (_, name), row in rows.items() if name == "sbom")
    into = tmp_path / "sbom.json"
    fetched = plugin("may", "get", "pipelinerun/sbom", "sbom", "-o", str(into))
    assert fetched.returncode == 0, fetched.stderr
    assert hashlib.sha256(into.read_bytes()).hexdigest() == built.sha256
    refused = plugin("may-not", "get", "pipelinerun/sbom", "sbom")
    assert refused.returncode == 1
    assert b"403" in refused.stderr
    assert refused.stdout == b""


def _config(places: Places, token: str, namespace: str) -> Manifest:
    """The administrator's kubeconfig with another user."""
    words = [*Cluster(places).kubectl(), "config", "view", "--raw", "--output", "json"]
    found: Manifest = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout)
    found["users"][0]["user"] = {"token": token}
    found["contexts"][0]["context"]["namespace"] = namespace
    return found
