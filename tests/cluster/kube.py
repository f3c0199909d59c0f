"""A cluster's API as the tests use it: apply, read, wait by watching, and the logs of pods."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml
from kubernetes import client, config, watch
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ApiException, NotFoundError

Manifest = dict[str, Any]
"""An object of the API as JSON."""

DEADLINE = 180.0
"""Seconds; only a broken cluster ever reaches it."""
FIELD_MANAGER = "resultsfs-tests"


class Kind(NamedTuple):
    """A kind of objects."""

    api_version: str
    kind: str


CONFIGMAP = Kind("v1", "ConfigMap")
DEPLOYMENT = Kind("apps/v1", "Deployment")
EVENT = Kind("v1", "Event")
NAMESPACE = Kind("v1", "Namespace")
NODE = Kind("v1", "Node")
POD = Kind("v1", "Pod")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount")
PIPELINERUN = Kind("tekton.dev/v1", "PipelineRun")
TASKRUN = Kind("tekton.dev/v1", "TaskRun")


class Kube:
    """The API of one cluster, as the user of a kubeconfig. Errors are the client's ApiException."""

    def __init__(self, kubeconfig: Path) -> None:
        configuration = client.Configuration()
        configuration.retries = False
        config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        self._client = client.ApiClient(configuration)
        self._discovered = tempfile.TemporaryDirectory(prefix="resultsfs-api-")
        self._dynamic = DynamicClient(self._client, cache_file=f"{self._discovered.name}/resources.json")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.rest_client.pool_manager.clear()
        self._client.close()
        self._discovered.cleanup()

    def _resource(self, kind: Kind) -> Any:
        return self._dynamic.resources.get(api_version=kind.api_version, kind=kind.kind)

    def apply(self, manifests: str | list[Manifest], namespace: str | None = None) -> list[Manifest]:
        """Server-side apply of YAML documents, in their order; those without a namespace go to `namespace`."""
        documents = list(yaml.safe_load_all(manifests)) if isinstance(manifests, str) else manifests
        applied = []
        for document in documents:
            if document is None:
                continue
            resource = self._resource(kind_of(document))
            where = (document["metadata"].get("namespace") or namespace) if resource.namespaced else None
            done = self._dynamic.server_side_apply(
                resource, document, namespace=where, field_manager=FIELD_MANAGER, force_conflicts=True
            )
            applied.append(_manifest(done))
        return applied

    def create(self, manifest: Manifest | str, namespace: str, *, dry_run: bool = False) -> Manifest:
        """Create one object, which may have a `generateName`."""
        body = yaml.safe_load(manifest) if isinstance(manifest, str) else manifest
        resource = self._resource(kind_of(body))
        more = {"dry_run": "All"} if dry_run else {}
        return _manifest(self._dynamic.create(resource, body, namespace=namespace, **more))

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest:
        """One object. Raises NotFoundError."""
        return _manifest(self._dynamic.get(self._resource(kind), name=name, namespace=namespace))

    def list(self, kind: Kind, namespace: str | None = None, **selectors: str) -> list[Manifest]:
        """All objects of a kind; `label_selector` and `field_selector` choose."""
        found = _manifest(self._dynamic.get(self._resource(kind), namespace=namespace, **selectors))
        items: list[Manifest] = found["items"]
        return items

    def patch(self, kind: Kind, name: str, body: Manifest, namespace: str | None = None) -> Manifest:
        """A merge patch (RFC 7386): null removes a key."""
        done = self._dynamic.patch(
            self._resource(kind), body, name=name, namespace=namespace, content_type="application/merge-patch+json"
        )
        return _manifest(done)

    def delete(self, kind: Kind, name: str, namespace: str | None = None) -> None:
        """Delete an object and what belongs to it; no error if there is none."""
        try:
            self._dynamic.delete(
                self._resource(kind), name=name, namespace=namespace, body={"propagationPolicy": "Background"}
            )
        except NotFoundError:
            return

    def wait(
        self,
        kind: Kind,
        name: str,
        condition: Callable[[Manifest], bool],
        namespace: str | None = None,
        *,
        deadline: float = DEADLINE,
        what: str = "the condition",
    ) -> Manifest:
        """The object as soon as the condition holds. Raises AssertionError with its last state after the deadline."""
        last: Manifest | None = None
        for found in self.follow(kind, name, namespace, deadline=deadline):
            last = found
            if found is not None and condition(found):
                return found
        state = yaml.safe_dump((last or {}).get("status", "not there"))
        raise AssertionError(f"{kind.kind} {name}: {what} did not hold within {deadline:.0f} s; its status:\n{state}")

    def wait_gone(self, kind: Kind, name: str, namespace: str | None = None, *, deadline: float = DEADLINE) -> None:
        """Return as soon as there is no such object. Raises AssertionError after the deadline."""
        last: Manifest | None = None
        for last in self.follow(kind, name, namespace, deadline=deadline):
            if last is None:
                return
        raise AssertionError(f"{kind.kind} {name} is still there after {deadline:.0f} s:\n{yaml.safe_dump(last)}")

    def follow(
        self, kind: Kind, name: str, namespace: str | None = None, *, deadline: float = DEADLINE
    ) -> Iterator[Manifest | None]:
        """The states of one object, None while it is not there, until the deadline; watched, not polled."""
        end = time.monotonic() + deadline
        resource = self._resource(kind)
        selector = f"metadata.name={name}"
        while (left := end - time.monotonic()) > 0:
            found = _manifest(self._dynamic.get(resource, namespace=namespace, field_selector=selector))
            yield found["items"][0] if found["items"] else None
            watcher = watch.Watch()
            try:
                for event in watcher.stream(
                    resource.get,
                    serialize=False,
                    namespace=namespace,
                    field_selector=selector,
                    resource_version=found["metadata"]["resourceVersion"],
                    timeout_seconds=max(1, round(left)),
                    _request_timeout=left + 10,
                ):
                    yield None if event["type"] == "DELETED" else event["raw_object"]
            except ApiException as error:
                if error.status != 410:
                    raise
            finally:
                watcher.stop()

    def logs(self, pod: str, namespace: str, container: str, *, previous: bool = False) -> str:
        """What a container printed; `previous`: before it was restarted."""
        printed = client.CoreV1Api(self._client).read_namespaced_pod_log(
            pod, namespace, container=container, previous=previous, _preload_content=False
        )
        data: bytes = printed.data
        return data.decode(errors="replace")


def kind_of(manifest: Manifest) -> Kind:
    """What kind a manifest is of."""
    return Kind(manifest["apiVersion"], manifest["kind"])


def condition_is(kind: str, *statuses: str) -> Callable[[Manifest], bool]:
    """Whether an object's status condition of that type has one of these statuses."""

    def holds(manifest: Manifest) -> bool:
        conditions = manifest.get("status", {}).get("conditions", [])
        return any(found["type"] == kind and found["status"] in statuses for found in conditions)

    return holds


def _manifest(answer: Any) -> Manifest:
    found: Manifest = answer.to_dict()
    return found
