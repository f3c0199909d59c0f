"""Where the API server is and how it is spoken to: from inside a pod, or by a kubeconfig."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resultsfs.errors import InvalidSetting

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_LIFE = 60.0
"""Seconds after which a token's file is read again: the kubelet replaces it long before it expires."""


def nothing() -> str | None:
    """No authorization header: a client certificate says who is asking."""
    return None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An API server's URL, how its connections are secured, and what gives the Authorization header."""

    url: str
    tls: ssl.SSLContext | None = None
    authorization: Callable[[], str | None] = nothing
    namespace: str = "default"


class TokenFile:
    """A bearer token in a file that is replaced from time to time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = ""
        self._read_at = -TOKEN_LIFE

    def __call__(self) -> str:
        """The header's value. Raises OSError when the file cannot be read."""
        now = time.monotonic()
        if now - self._read_at >= TOKEN_LIFE:
            self._text = self._path.read_text(encoding="ascii").strip()
            self._read_at = now
        return f"Bearer {self._text}"


def in_cluster(directory: Path = SERVICE_ACCOUNT) -> Endpoint:
    """The endpoint of the pod's service account. Raises InvalidSetting outside of a cluster."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (directory / "token").exists():
        raise InvalidSetting("this is no pod with a service account: name a kubeconfig with --kubeconfig")
    return Endpoint(
        url=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        tls=ssl.create_default_context(cafile=str(directory / "ca.crt")),
        authorization=TokenFile(directory / "token"),
        namespace=(directory / "namespace").read_text(encoding="ascii").strip(),
    )


def from_kubeconfig(path: str | None = None, context: str | None = None) -> Endpoint:
    """The endpoint of a kubeconfig, by default the one that kubectl would take. Raises InvalidSetting."""
    from kubernetes import client, config  # heavy: only where a person runs a command

    configuration = client.Configuration()
    try:
        config.load_kube_config(config_file=path, context=context, client_configuration=configuration)
        contexts, active = config.list_kube_config_contexts(config_file=path)
    except (config.ConfigException, OSError) as error:
        raise InvalidSetting(f"kubeconfig {path or 'of kubectl'}: {error}") from None
    chosen = next((entry for entry in contexts if entry["name"] == context), active)
    tls = None
    if configuration.host.startswith("https:"):
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
        if not configuration.verify_ssl:
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        if configuration.cert_file:
            tls.load_cert_chain(configuration.cert_file, configuration.key_file)

    def authorization() -> str | None:
        found: str | None = (
            configuration.auth_settings().get("BearerToken", {}).get("value")
        )  # renewed where it expires
        return found

    return Endpoint(
        url=configuration.host.rstrip("/"),
        tls=tls,
        authorization=authorization,
        namespace=chosen["context"].get("namespace") or "default",
    )


def for_person(path: str | None, context: str | None) -> Endpoint:
    """For a command: a kubeconfig that is named or that kubectl would take, else the pod's. Raises InvalidSetting."""
    in_a_pod = os.environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").exists()
    known = path or context or os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser().exists()
    return in_cluster() if in_a_pod and not known else from_kubeconfig(path, context)
