"""Runs of a cluster for `resultsfs list|get|stat`: by the HTTP API, or by kubeconfig and store."""

from __future__ import annotations

import json
import ssl
from collections.abc import Generator, Iterator
from typing import Any
from urllib.parse import quote

import urllib3

from controller.api.results import Result, described, results_of
from controller.kube.client import Kube
from controller.kube.endpoint import Endpoint, for_person
from controller.kube.errors import ApiError
from controller.kube.resources import CONFIG_MAPS, PIPELINE_RUNS, TASK_RUNS, Resource, Tree
from resultsfs import settings as settings_module
from resultsfs import transfer
from resultsfs.cli.clusters import Cluster, Reader
from resultsfs.cli.sources import MEMORY_LIMIT
from resultsfs.errors import InvalidKey, InvalidSetting, ResultsError
from resultsfs.resolve import StoredContent
from resultsfs.settings import Settings
from resultsfs.store import Key, Store
from resultsfs.value import encoded, original, references, single_reference

SYSTEM = "resultsfs"
"""Namespace and name of the ConfigMap with the cluster's settings, as the chart installs it by default."""
_RESOURCES: dict[str, Resource] = {"taskruns": TASK_RUNS, "pipelineruns": PIPELINE_RUNS}
_TIMEOUT = 60.0


def open_run(kind: str, name: str, cluster: Cluster) -> Reader:
    """The reader of a run. Raises InvalidSetting, ApiError."""
    endpoint = for_person(cluster.kubeconfig, cluster.context)
    namespace = cluster.namespace or endpoint.namespace
    if cluster.api:
        return ByApi(endpoint, cluster.api, kind, namespace, name)
    return ByStore(Kube(endpoint), kind, namespace, name, cluster)


class ByStore:
    """The run from the API server, spilled content from the store itself, whose credentials are the person's own."""

    def __init__(self, kube: Kube, kind: str, namespace: str, name: str, cluster: Cluster) -> None:
        self._kube = kube
        self._resource = _RESOURCES[kind]
        self._namespace = namespace
        self._name = name
        self._cluster = cluster
        self._opened: Store | None = None

    def close(self) -> None:
        """Close connections."""
        self._kube.close()
        if self._opened is not None:
            self._opened.close()

    @property
    def _store(self) -> Store:
        if self._opened is None:
            self._opened = Store.open(self._settings())
        return self._opened

    def _settings(self) -> Settings:
        cluster = self._cluster
        if cluster.settings_file is not None:
            settings = settings_module.load(cluster.settings_file)
        elif cluster.store is not None:
            settings = Settings()
        else:
            try:
                data = self._kube.get(CONFIG_MAPS, SYSTEM, SYSTEM).get("data") or {}
            except ApiError as error:
                raise InvalidSetting(
                    f"where spilled content lies is not known ({error}): name the cluster's HTTP API with --api, or its "
                    "store with --store or --settings"
                ) from None
            settings = settings_module.from_mapping(data, f"ConfigMap {SYSTEM}/{SYSTEM}")
        if cluster.store is not None:
            settings = settings_module.from_mapping({**settings_module.to_mapping(settings), "store": cluster.store})
        return settings

    def _run(self) -> Tree:
        return self._kube.get(self._resource, self._namespace, self._name)

    def _task_runs(self, run: Tree) -> list[Tree]:
        if self._resource is TASK_RUNS:
            return []
        labels = f"tekton.dev/pipelineRunUID={run['metadata']['uid']}"
        return self._kube.list(TASK_RUNS, self._namespace, labels=labels).items

    def _find(self, wanted: str) -> tuple[Result, str | None]:
        """A result by NAME, or TASK/NAME of a pipeline's task; and its TaskRun."""
        run = self._run()
        own = self._name if self._resource is TASK_RUNS else None
        found = [(result, own) for result in results_of(run)]
        known = {result.name: (result, task_run) for result, task_run in found}
        if wanted not in known:
            for task_run in self._task_runs(run):
                for result in results_of(task_run):
                    known.setdefault(f"{_task(task_run)}/{result.name}", (result, task_run["metadata"]["name"]))
        if wanted not in known:
            label = f"{self._resource.kind} {self._namespace}/{self._name}"
            raise InvalidKey(f"{label} has no result {wanted!r}; there are: {', '.join(known) or 'none'}")
        return known[wanted]

    def content(self, result: str) -> tuple[Iterator[bytes], int]:
        """As `Reader.content`."""
        found, _ = self._find(result)
        reference = single_reference(found.value)
        if reference is not None:
            key = Key.of(self._namespace, reference)
            size = self._store.size(key)
            return self._store.verified(key, size), size
        value = found.value
        if found.spilled:
            value = original(value, StoredContent(self._store, self._namespace), f"result {result}", MEMORY_LIMIT)
        data = encoded(value)
        return iter([data]), len(data)

    def facts(self, result: str) -> dict[str, Any]:
        """As `Reader.facts`."""
        found, task_run = self._find(result)
        known = self._described([found], task_run)[0]
        places = [self._store.location(Key.of(self._namespace, one)) for one in references(found.value)]
        return {
            "name": f"{self._name} {result}",
            "namespace": self._namespace,
            **{key: known[key] for key in ("type", "size", "sha256", "spilled")},
            "value": found.value,
            "locations": places,
        }

    def listing(self) -> dict[str, Any]:
        """As `Reader.listing`."""
        run = self._run()
        own = self._name if self._resource is TASK_RUNS else None
        rows = []
        for task_run in self._task_runs(run):
            results = self._described(results_of(task_run), task_run["metadata"]["name"])
            rows += [{"task": _task(task_run), **row} for row in results]
        label = "(pipeline)" if own is None else _task(run)
        rows += [{"task": label, **row} for row in self._described(results_of(run), own)]
        return {**_summary(self._resource, run), "results": rows}

    def _described(self, results: list[Result], task_run: str | None) -> list[dict[str, Any]]:
        """With nothing spilled the store need not even be known."""
        if not any(result.spilled for result in results):
            return [described([result], _NO_STORE, self._namespace, None)[0] for result in results]
        return described(results, self._store, self._namespace, task_run)


class ByApi:
    """All by the cluster's HTTP API, with the person's own token."""

    def __init__(self, endpoint: Endpoint, url: str, kind: str, namespace: str, name: str) -> None:
        self._endpoint = endpoint
        self._base = f"{url.rstrip('/')}/v1/namespaces/{quote(namespace)}"
        self._kind = kind
        self._namespace = namespace
        self._name = name
        self._pool = urllib3.PoolManager(ssl_context=ssl.create_default_context())
        self._kube = Kube(endpoint)

    def close(self) -> None:
        """Close connections."""
        self._pool.clear()
        self._kube.close()

    def _ask(self, path: str, method: str = "GET", *, stream: bool = False) -> urllib3.BaseHTTPResponse:
        authorization = self._endpoint.authorization()
        if authorization is None:
            raise InvalidSetting(
                "the HTTP API needs a bearer token, and this kubeconfig's user has a certificate alone"
            )
        url = f"{self._base}/{path}"
        headers = {"Authorization": authorization}
        try:
            answer = self._pool.request(method, url, headers=headers, preload_content=not stream, timeout=_TIMEOUT)
        except urllib3.exceptions.HTTPError as error:
            raise ResultsError(f"{url}: {error}") from None
        if answer.status >= 400:
            raise ResultsError(f"{url}: {answer.status}: {_error(answer)}")
        return answer

    def _paths(self) -> Iterator[tuple[str, str]]:
        """Label and path of every run that has results of this one."""
        if self._kind == "pipelineruns":
            run = self._kube.get(PIPELINE_RUNS, self._namespace, self._name)
            labels = f"tekton.dev/pipelineRunUID={run['metadata']['uid']}"
            for task_run in self._kube.list(TASK_RUNS, self._namespace, labels=labels).items:
                yield _task(task_run), f"taskruns/{task_run['metadata']['name']}/results"
        yield "(pipeline)" if self._kind == "pipelineruns" else self._name, f"{self._kind}/{self._name}/results"

    def _path(self, result: str) -> str:
        task, slash, name = result.rpartition("/")
        if not slash:
            return f"{self._kind}/{self._name}/results/{quote(result)}"
        for label, path in self._paths():
            if label == task:
                return f"{path}/{quote(name)}"
        raise InvalidKey(f"{self._name} has no task {task!r}")

    def content(self, result: str) -> tuple[Iterator[bytes], int]:
        """As `Reader.content`."""
        answer = self._ask(self._path(result), stream=True)
        size = int(answer.headers["Content-Length"])
        sha256 = answer.headers["ETag"].strip('"')

        def blocks() -> Generator[bytes, None, None]:
            try:
                yield from answer.stream(1 << 20)
            except urllib3.exceptions.HTTPError as error:
                raise ResultsError(f"{result}: the HTTP API broke off: {error}") from None
            finally:
                answer.release_conn()

        return transfer.verified(blocks(), sha256, f"result {result}"), size

    def facts(self, result: str) -> dict[str, Any]:
        """As `Reader.facts`; where content lies, the API does not tell."""
        path, _, name = self._path(result).rpartition("/")
        rows: list[dict[str, Any]] = self._ask(path).json()["results"]
        known = next((row for row in rows if quote(row["name"]) == name), None)
        if known is None:
            names = ", ".join(row["name"] for row in rows) or "none"
            raise InvalidKey(f"{self._name} has no result {result!r}; there are: {names}")
        return {
            "name": f"{self._name} {result}",
            "namespace": self._namespace,
            **{key: known[key] for key in ("type", "size", "sha256", "spilled")},
            "value": None,
            "locations": [],
        }

    def listing(self) -> dict[str, Any]:
        """As `Reader.listing`."""
        run = self._kube.get(_RESOURCES[self._kind], self._namespace, self._name)
        rows = []
        for label, path in self._paths():
            rows += [{"task": label, **row} for row in self._ask(path).json()["results"]]
        return {**_summary(_RESOURCES[self._kind], run), "results": rows}


_NO_STORE = Store.open(Settings(store="memory://nothing"))
"""Never asked: for results that are all in status."""


def _task(task_run: Tree) -> str:
    metadata = task_run["metadata"]
    return str((metadata.get("labels") or {}).get("tekton.dev/pipelineTask") or metadata["name"])


def _summary(resource: Resource, run: Tree) -> dict[str, Any]:
    conditions: list[Tree] = (run.get("status") or {}).get("conditions") or []
    condition: Tree = next((one for one in conditions if one.get("type") == "Succeeded"), {})
    words = {"True": "Succeeded", "False": "Failed"}
    return {
        "kind": resource.kind,
        "namespace": run["metadata"]["namespace"],
        "name": run["metadata"]["name"],
        "uid": run["metadata"]["uid"],
        "status": words.get(str(condition.get("status")), "Running"),
        "reason": condition.get("reason", ""),
    }


def _error(answer: urllib3.BaseHTTPResponse) -> str:
    try:
        return str(json.loads(answer.data)["error"])
    except (ValueError, KeyError, TypeError):
        return answer.data[:200].decode("utf-8", "replace")
