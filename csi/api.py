"""The Kubernetes API, as far as the node driver needs it: get a pod, get a TaskRun, write Events.

The official client for Python takes 46 MB of memory in each process that imports it (version 36, measured), on every
node, for three requests; so this is urllib3 and the pod's service account. The token is read anew whenever its file
has changed, for the kubelet rotates it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import urllib3

import resultsfs
from resultsfs.errors import InvalidSetting, ResultsError

log = logging.getLogger(__name__)

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_SECONDS = urllib3.Timeout(connect=3.0, read=10.0)
_RETRIES = urllib3.Retry(
    connect=2, read=1, redirect=0, status=2, status_forcelist=(429, 500, 502, 503, 504), backoff_factor=0.3
)
_LARGEST = 8 << 20  # bytes of an answer; etcd keeps nothing larger than 1.5 MiB


class ApiError(ResultsError):
    """The API server did not do what was asked; `status` is the HTTP status, 0 when there was no answer."""

    default_errno = errno.EIO

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is, whom it must be (a file of certificates; empty: the system's), who we are (a file with
    a token; empty: nobody)."""

    server: str
    ca_file: str = ""
    token_file: str = ""

    @classmethod
    def in_cluster(cls) -> Access:
        """As Kubernetes tells the pods. Raises InvalidSetting outside of one."""
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise InvalidSetting(
                "KUBERNETES_SERVICE_HOST is not set, so this is no pod with a service account: say --api-server, or "
                "--no-api to do without types, live container counts and Events"
            )
        bracketed = f"[{host}]" if ":" in host else host
        return cls(f"https://{bracketed}:{port}", f"{_ACCOUNT}/ca.crt", f"{_ACCOUNT}/token")


class Api:
    """Requests to one API server. Safe to use from several threads. All raise ApiError."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=4,
            timeout=_SECONDS,
            retries=_RETRIES,
            ca_certs=access.ca_file or None,
            cert_reqs="CERT_REQUIRED",
        )
        self._token: tuple[int, str] = (0, "")

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        """A pod."""
        return self._call("GET", f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(name)}")

    def task_run(self, namespace: str, name: str) -> dict[str, Any]:
        """A TaskRun."""
        return self._call("GET", f"/apis/tekton.dev/v1/namespaces/{quote(namespace)}/taskruns/{quote(name)}")

    def create_event(self, namespace: str, event: Mapping[str, Any]) -> None:
        """Write an Event; status 409 when there is one of that name."""
        self._call("POST", f"/api/v1/namespaces/{quote(namespace)}/events", event, "application/json")

    def patch_event(self, namespace: str, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change an Event; what it is then."""
        path = f"/api/v1/namespaces/{quote(namespace)}/events/{quote(name)}"
        return self._call("PATCH", path, changes, "application/merge-patch+json")

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = "") -> dict[str, Any]:
        headers = {"Accept": "application/json", "User-Agent": f"resultsfs-csi/{resultsfs.__version__}"}
        token = self._bearer()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = kind
        data = None if body is None else json.dumps(body).encode()
        try:
            with self._pool.request(
                method, self._access.server + path, body=data, headers=headers, preload_content=False
            ) as answer:
                text = answer.read(_LARGEST + 1)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"{method} {path}: no answer from {self._access.server}: {error}") from None
        if len(text) > _LARGEST:
            raise ApiError(f"{method} {path}: an answer of more than {_LARGEST} bytes", answer.status)
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if answer.status >= 400 or not isinstance(found, dict):
            reason = found.get("message") if isinstance(found, dict) else None
            raise ApiError(f"{method} {path}: {answer.status} {reason or answer.reason}", answer.status)
        return found

    def _bearer(self) -> str:
        if not self._access.token_file:
            return ""
        try:
            changed = os.stat(self._access.token_file).st_mtime_ns
            if changed != self._token[0]:
                with open(self._access.token_file, encoding="ascii") as file:
                    self._token = (changed, file.read().strip())
        except (OSError, UnicodeDecodeError) as error:
            raise ApiError(f"the service account's token {self._access.token_file} cannot be read: {error}") from None
        return self._token[1]
