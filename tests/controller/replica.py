"""A replica of the controller as a process, with the rights of the chart's service account and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from controller.identity import PATHS
from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.kube.errors import Conflict, NotFound
from controller.kube.resources import MUTATING_WEBHOOKS, NAMESPACES, Resource
from tests.controller.apiserver import ApiServer
from tests.support import chart, tekton
from tests.support.ports import free_ports
from tests.support.waiting import eventually

SYSTEM = "resultsfs"
ACCOUNT = "resultsfs-controller"
START = 120.0
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
_KINDS = {
    "ServiceAccount": Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    "Secret": Resource("", "v1", "secrets", "Secret"),
    "ClusterRole": Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole"),
    "ClusterRoleBinding": Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding"),
    "Role": Resource("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    "RoleBinding": Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
}
RESOURCES = _KINDS


def install(kube: Kube) -> None:
    """Tekton's CRDs, and of the chart what the controller needs of the API: account, rights, Secret."""
    for folder in ("300-crds",):
        for file in sorted((tekton.source().directory / "config" / folder).glob("*.yaml")):
            for tree in yaml.safe_load_all(file.read_text()):
                tree["spec"].pop("conversion", None)  # by Tekton's webhook, which is not here
                kube.create(CRDS, None, tree)
    for name in (SYSTEM, "tekton-pipelines"):
        kube.create(NAMESPACES, None, {"metadata": {"name": name}})
    for tree in chart.committed().all:
        resource = _KINDS.get(tree["kind"])
        if resource is not None and tree["metadata"]["name"].startswith(ACCOUNT):
            kube.create(resource, tree["metadata"].get("namespace"), tree)
    eventually(lambda: _serves(kube), START)


def _serves(kube: Kube) -> bool:
    try:
        for plural in ("taskruns", "pipelineruns", "tasks", "pipelines"):
            kube.list(Resource("tekton.dev", "v1", plural, ""))
        kube.list(Resource("tekton.dev", "v1beta1", "customruns", ""))
    except NotFound:
        return False
    return True


def _token(kube: Kube, account: str, namespace: str) -> str:
    path = _KINDS["ServiceAccount"].path(namespace, account, "token")
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    found: str = kube.post(path, body)["status"]["token"]
    return found


def service_account(api: ApiServer, kube: Kube, directory: Path) -> Path:
    """What a pod of the chart's service account finds mounted."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "token").write_text(_token(kube, ACCOUNT, SYSTEM))
    (directory / "ca.crt").write_bytes(api.authority.pair.certificate.read_bytes())
    (directory / "namespace").write_text(SYSTEM)
    return directory


def account_kubeconfig(api: ApiServer, kube: Kube, account: str = ACCOUNT, namespace: str = SYSTEM) -> Path:
    """A kubeconfig with a token of a service account, as its pods get one."""
    token = _token(kube, account, namespace)
    config = json.loads(api.admin.read_text())
    config["users"][0]["user"] = {"token": token}
    config["contexts"][0]["context"]["namespace"] = namespace
    file = api.home / f"{namespace}-{account}.kubeconfig"
    file.write_text(json.dumps(config))
    return file


@dataclass
class Replica:
    """One that runs."""

    process: subprocess.Popen[bytes]
    https: str
    http: str
    log: Path

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a probe or of the metrics."""
        try:
            with urllib.request.urlopen(f"{self.http}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def memory(self) -> int:
        """Bytes of the process that are in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(60)


@contextmanager
def running(
    api: ApiServer,
    home: Path,
    settings: dict[str, str],
    *arguments: str,
    webhooks: str = "",
    account: Path | None = None,
    api_port: int | None = None,
) -> Iterator[Replica]:
    """A replica that is ready; ended afterwards. `webhooks`: the configuration that it registers with; `api_port`: where
    it finds the API server, if not at its own port."""
    home.mkdir(parents=True, exist_ok=True)
    kube = Kube(from_kubeconfig(str(api.admin)))
    try:
        account = service_account(api, kube, home / "account")
    finally:
        kube.close()
    (home / "settings.yaml").write_text(yaml.safe_dump(settings))
    https, http = free_ports(2)
    command = [
        sys.executable, "-m", "controller", "serve", f"--listen=127.0.0.1:{https}", f"--metrics=127.0.0.1:{http}",
        f"--settings={home / 'settings.yaml'}", f"--service-account={account}", "--host=127.0.0.1", "--drain=0",
        f"--webhooks={webhooks}", *arguments,
    ]  # fmt: skip
    if not any(argument.startswith("--certificate") for argument in arguments):
        command.append("--certificate-secret=resultsfs-controller-certificate")
    log = home / "controller.log"
    if webhooks:
        register(api, webhooks, f"https://127.0.0.1:{https}")
    environment = {
        **os.environ,
        "NAMESPACE": SYSTEM,
        "POD_NAME": home.name,
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(api_port or api.port),
    }
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    replica = Replica(process, f"https://127.0.0.1:{https}", f"http://127.0.0.1:{http}", log)
    try:
        eventually(lambda: process.poll() is not None or replica.get("/readyz")[0] == 200, START)
        assert process.poll() is None, log.read_text()
        yield replica
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def owned(
    api: ApiServer, kube: Kube, home: Path, settings: dict[str, str], api_port: int | None = None
) -> Iterator[Replica]:
    """A replica with the store of these settings that the API server asks."""
    try:
        with running(api, home / "replica", settings, webhooks="resultsfs", api_port=api_port) as replica:
            yield replica
    finally:
        delete_quietly(kube, MUTATING_WEBHOOKS, "resultsfs")


def register(api: ApiServer, name: str, url: str, only: str = "") -> None:
    """The chart's webhook configuration, called by URL instead of through a Service; `only` in that namespace."""
    tree: dict[str, Any] = chart.committed().one("MutatingWebhookConfiguration", "resultsfs")
    tree["metadata"] = {"name": name}
    for webhook in tree["webhooks"]:
        webhook["clientConfig"] = {"url": url + PATHS[webhook["name"]]}
        webhook["timeoutSeconds"] = 30  # how crowded the machine is, is no matter of these tests
        if only:
            webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": only}}
    kube = Kube(from_kubeconfig(str(api.admin)))
    try:
        kube.create(MUTATING_WEBHOOKS, None, tree)
    except Conflict:
        found = kube.get(MUTATING_WEBHOOKS, None, name)
        for old, new in zip(found["webhooks"], tree["webhooks"], strict=True):
            path = urlsplit(old["clientConfig"]["url"]).path
            old["clientConfig"]["url"] = f"{url}{path}" if path.count("/") > 2 else new["clientConfig"]["url"]
        kube.update(MUTATING_WEBHOOKS, None, found)
    finally:
        kube.close()


def delete_quietly(kube: Kube, resource: Resource, name: str) -> None:
    """Delete what may be gone already."""
    try:
        kube.delete(resource, None, name)
    except NotFound:
        return
