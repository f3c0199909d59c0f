"""The components of the cluster: how each is started, and how it shows that it works."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster.machine import debian, golang, settings
from tests.cluster.machine.network import Network
from tests.cluster.machine.node import Node
from tests.cluster.machine.places import Places

API_PORT = 6443
ETCD_PORT = 2379
_PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class Component:
    """One daemon of the node."""

    name: str
    argv: tuple[str, ...]
    version: str
    ready: Callable[[], str]
    """Empty when it works, or what is wrong."""
    endpoint: str


def components(places: Places, network: Network, node: Node) -> dict[str, Component]:
    """All of them by name, in the order in which they start."""
    programs = {program.name: program for program in [*golang.kubernetes(), *golang.own()]}
    probe = Probe(places)
    address = network.node

    def go(name: str, endpoint: str, *flags: str, short: str = "") -> Component:
        program = programs[name]
        ready = lambda: probe.http(endpoint)  # noqa: E731
        return Component(short or name, (str(program.path), *flags), program.version, ready, endpoint)

    def kubeconfig(name: str) -> str:
        return str(places.keys / f"{name}.kubeconfig")

    etcd = f"https://{address}:{ETCD_PORT}"
    found = [
        Component(
            "etcd",
            (str(debian.ETCD.directory / "etcd"), *_etcd(places, address)),
            debian.ETCD.version,
            lambda: probe.http(f"{etcd}/health"),
            etcd,
        ),
        Component(
            "containerd",
            (str(debian.CONTAINERD.directory / "containerd"), f"--config={places.configs / 'containerd.toml'}"),
            debian.CONTAINERD.version,
            lambda: probe.unix(node.root / settings.CONTAINERD_SOCKET.lstrip("/")),
            f"unix://{settings.CONTAINERD_SOCKET} (in the node)",
        ),
        go("kube-apiserver", f"https://{address}:{API_PORT}/readyz", *_apiserver(places, network), short="apiserver"),
        go(
            "kube-controller-manager",
            f"https://{address}:10257/healthz",
            *_controller_manager(places, network),
            short="controller-manager",
        ),
        go(
            "kube-scheduler",
            f"https://{address}:10259/healthz",
            *_serving(places),
            f"--bind-address={address}",
            f"--kubeconfig={kubeconfig('kube-scheduler')}",
            f"--authentication-kubeconfig={kubeconfig('kube-scheduler')}",
            f"--authorization-kubeconfig={kubeconfig('kube-scheduler')}",
            "--leader-elect=false",
            short="scheduler",
        ),
        go("coredns", f"http://{address}:8181/ready", f"-conf={places.configs / 'Corefile'}", short="dns"),
        go(
            "kube-proxy",
            f"http://{address}:10256/healthz",
            f"--config={places.configs / 'kube-proxy.yaml'}",
            short="proxy",
        ),
        go(
            "kubelet",
            f"http://{address}:10248/healthz",
            f"--config={places.configs / 'kubelet.yaml'}",
            f"--kubeconfig={kubeconfig('kubelet')}",
            f"--root-dir={settings.KUBELET_HOME}",
            f"--hostname-override={settings.NODE}",
            f"--node-ip={address}",
        ),
    ]
    return {component.name: component for component in found}


def environment() -> dict[str, str]:
    """The environment of every component: the unpacked programs before the machine's."""
    unpacked = [str(package.directory) for package in (debian.RUNC, debian.CONTAINERD)]
    return {"PATH": ":".join([*unpacked, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]), "HOME": "/"}


class Probe:
    """Asks components how they are, as the administrator."""

    def __init__(self, places: Places) -> None:
        self._keys = places.keys

    def http(self, url: str) -> str:
        """What is wrong with a component that answers 200 at `url` when it works; empty if nothing."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 0
        connection: http.client.HTTPConnection
        try:
            if parts.scheme == "https":
                context = ssl.create_default_context(cafile=str(self._keys / "ca.crt"))
                context.load_cert_chain(self._keys / "admin.crt", self._keys / "admin.key")
                connection = http.client.HTTPSConnection(host, port, timeout=_PROBE_SECONDS, context=context)
            else:
                connection = http.client.HTTPConnection(host, port, timeout=_PROBE_SECONDS)
        except OSError as error:
            return f"{self._keys}: {error}"
        try:
            connection.request("GET", parts.path)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return f"{url}: {error}"
        finally:
            connection.close()
        return "" if answer.status == 200 else f"{url}: HTTP {answer.status}: {text.strip()[:500]}"

    def unix(self, path: Path) -> str:
        """What is wrong with a component that listens on a socket when it works; empty if nothing."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PROBE_SECONDS)
            try:
                connection.connect(str(path))
            except OSError as error:
                return f"{path}: {error}"
        return ""


def _serving(places: Places) -> list[str]:
    return [f"--tls-cert-file={places.keys / 'server.crt'}", f"--tls-private-key-file={places.keys / 'server.key'}"]


def _etcd(places: Places, address: str) -> list[str]:
    keys, peer = places.keys, "http://127.0.0.1:2380"
    return [
        f"--name={settings.NODE}",
        f"--data-dir={places.home / 'etcd'}",
        f"--listen-client-urls=https://{address}:{ETCD_PORT}",
        f"--advertise-client-urls=https://{address}:{ETCD_PORT}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={settings.NODE}={peer}",
        f"--cert-file={keys / 'server.crt'}",
        f"--key-file={keys / 'server.key'}",
        f"--trusted-ca-file={keys / 'ca.crt'}",
        "--client-cert-auth=true",
    ]


def _apiserver(places: Places, network: Network) -> list[str]:
    keys = places.keys
    issuer = f"https://kubernetes.default.svc.{settings.DOMAIN}"
    return [
        *_serving(places),
        f"--advertise-address={network.node}",
        f"--secure-port={API_PORT}",
        f"--etcd-servers=https://{network.node}:{ETCD_PORT}",
        f"--etcd-cafile={keys / 'ca.crt'}",
        f"--etcd-certfile={keys / 'admin.crt'}",
        f"--etcd-keyfile={keys / 'admin.key'}",
        f"--client-ca-file={keys / 'ca.crt'}",
        f"--kubelet-certificate-authority={keys / 'ca.crt'}",
        f"--kubelet-client-certificate={keys / 'apiserver-to-kubelet.crt'}",
        f"--kubelet-client-key={keys / 'apiserver-to-kubelet.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={issuer}",
        f"--service-account-key-file={keys / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={keys / 'service-accounts.key'}",
        f"--service-cluster-ip-range={network.services}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
    ]


def _controller_manager(places: Places, network: Network) -> list[str]:
    keys = places.keys
    kubeconfig = keys / "kube-controller-manager.kubeconfig"
    return [
        *_serving(places),
        f"--bind-address={network.node}",
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--root-ca-file={keys / 'ca.crt'}",
        f"--cluster-signing-cert-file={keys / 'ca.crt'}",
        f"--cluster-signing-key-file={keys / 'ca.key'}",
        f"--service-account-private-key-file={keys / 'service-accounts.key'}",
        f"--service-cluster-ip-range={network.services}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
    ]
