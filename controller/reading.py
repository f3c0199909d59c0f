"""Runs of a cluster for `resultsfs list|get|stat`: by the HTTP API, or by kubeconfig and store."""

from __future__ import annotations

import json
import ssl
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import urllib3

from controller.api.results import Result, described, results_of
from controller.configuration import installed
from controller.kube.client import Kube
from controller.kube.endpoint import Endpoint, for_person
from controller.kube.errors import ApiError, error_of
from controller.kube.resources import PIPELINE_RUNS, TASK_RUNS, Tree
from controller.naming import KINDS, OWN, Found, Made, choose, made_by, may_have
from resultsfs import settings as settings_module
from resultsfs import transfer
from resultsfs.cli.clusters import Cluster, Reader
from resultsfs.cli.sources import MEMORY_LIMIT
from resultsfs.errors import InvalidSetting, ResultsError
from resultsfs.resolve import StoredContent
from resultsfs.settings import Settings
from resultsfs.store import Key, Store
from resultsfs.value import encoded, original, references, single_reference

_TIMEOUT = 60.0
T = TypeVar("T")


def open_run(kind: str, name: str, cluster: Cluster) -> Reader:
    """The reader of a run. Raises InvalidSetting, ApiError."""
    endpoint = for_person(cluster.kubeconfig, cluster.context)
    namespace = cluster.namespace or endpoint.namespace
    if cluster.api:
        return ByApi(endpoint, cluster.api, cluster.ca, kind, namespace, name)
    return ByStore(Kube(endpoint), kind, namespace, name, cluster)


class _Run(ABC, Generic[T]):
    """A run and the results that go by its name; what is known of one before it is read is a T."""

    def __init__(self, kube: Kube, kind: str, namespace: str, name: str) -> None:
        self._kube = kube
        self._resource = KINDS[kind]
        self._namespace = namespace
        self._name = name
        self._own = Made(kind, name, OWN if self._resource is PIPELINE_RUNS else "")

    @abstractmethod
    def _results(self, made: Made) -> list[Found[T]]:
        """The results of one run. Raises ApiError."""

    @abstractmethod
    def _rows(self, found: list[Found[T]]) -> list[dict[str, Any]]:
        """As the HTTP API describes them, of one run."""

    def close(self) -> None:
        """Close connections."""
        self._kube.close()

    def _get(self) -> Tree:
        return self._kube.get(self._resource, self._namespace, self._name)

    def _find(self, wanted: str) -> Found[T]:
        """The result of that name; only runs that it can mean are asked."""
        found = self._results(self._own)
        if not any(one.name == wanted for one in found) and self._resource is PIPELINE_RUNS:
            made = made_by(self._get())
            missing: list[str] = []
            found += [one for run in may_have(made, wanted) or made for one in self._reached(run, missing)]
            if missing and not any(wanted.rpartition("/")[2] == one.name for one in found):
                raise ResultsError(f"{self._label} has no result {wanted!r} that can be read: {'; '.join(missing)}")
        return choose(found, self._name, wanted, self._label)

    @property
    def _label(self) -> str:
        return f"{self._resource.kind} {self._namespace}/{self._name}"

    def _reached(self, made: Made, missing: list[str]) -> Iterable[Found[T]]:
        """The results of a run that may be gone, or not this person's to read: then `missing` says so."""
        try:
            return self._results(made)
        except ApiError as error:
            if error.status not in (403, 404):
                raise
            missing.append(f"{KINDS[made.kind].kind} {made.name} of task {made.task}: {error}")
            return []

    def listing(self) -> dict[str, Any]:
        """As `Reader.listing`."""
        run = self._get()
        rows: list[dict[str, Any]] = []
        notes: list[str] = []
        for made in made_by(run) if self._resource is PIPELINE_RUNS else []:
            found = list(self._reached(made, notes))
            rows += [{"task": made.task, "run": made.name, **row} for row in self._rows(found)]
        task = self._own.task or _task(run)
        rows += [{"task": task, "run": self._name, **row} for row in self._rows(self._results(self._own))]
        return {**_summary(self._resource.kind, run), "results": rows, "notes": notes}


class ByStore(_Run[Result]):
    """The run from the API server, spilled content from the store itself, whose credentials are the person's own."""

    def __init__(self, kube: Kube, kind: str, namespace: str, name: str, cluster: Cluster) -> None:
        super().__init__(kube, kind, namespace, name)
        self._cluster = cluster
        self._opened: Store | None = None

    def close(self) -> None:
        """Close connections."""
        super().close()
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
                settings = installed(self._kube)
            except ApiError as error:
                raise InvalidSetting(
                    f"where spilled content lies is not known ({error}): name the cluster's HTTP API with --api, or its "
                    "store with --store or --settings"
                ) from None
        if cluster.store is not None:
            settings = settings_module.from_mapping({**settings_module.to_mapping(settings), "store": cluster.store})
        return settings

    def _results(self, made: Made) -> list[Found[Result]]:
        run = self._kube.get(KINDS[made.kind], self._namespace, made.name)
        return [Found(made, result.name, result) for result in results_of(run)]

    def content(self, result: str) -> tuple[Iterator[bytes], int]:
        """As `Reader.content`."""
        found = self._find(result).what
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
        found = self._find(result)
        value = found.what.value
        places = [self._store.location(Key.of(self._namespace, one)) for one in references(value)]
        return _facts(f"{self._name} {result}", self._namespace, self._rows([found])[0], value, places)

    def _rows(self, found: list[Found[Result]]) -> list[dict[str, Any]]:
        results = [one.what for one in found]
        if not any(result.spilled for result in results):  # the store need not even be known
            return [described([result], _NO_STORE, self._namespace, None)[0] for result in results]
        run = found[0].run
        return described(results, self._store, self._namespace, run.name if KINDS[run.kind] is TASK_RUNS else None)


class ByApi(_Run[dict[str, Any]]):
    """All by the cluster's HTTP API, with the person's own token."""

    def __init__(self, endpoint: Endpoint, url: str, ca: str | None, kind: str, namespace: str, name: str) -> None:
        super().__init__(Kube(endpoint), kind, namespace, name)
        self._endpoint = endpoint
        self._base = f"{url.rstrip('/')}/v1/namespaces/{quote(namespace)}"
        self._pool = urllib3.PoolManager(ssl_context=_trusting(ca))

    def close(self) -> None:
        """Close connections."""
        super().close()
        self._pool.clear()

    def _ask(self, path: str, *, stream: bool = False) -> urllib3.BaseHTTPResponse:
        authorization = self._endpoint.authorization()
        if authorization is None:
            raise InvalidSetting(
                "the HTTP API needs a bearer token, and this kubeconfig's user has a certificate alone"
            )
        url = f"{self._base}/{path}"
        headers = {"Authorization": authorization}
        try:
            answer = self._pool.request("GET", url, headers=headers, preload_content=not stream, timeout=_TIMEOUT)
        except urllib3.exceptions.HTTPError as error:
            raise ResultsError(f"{url}: {error}") from None
        if answer.status >= 400:
            raise error_of(answer.status, f"{url}: {answer.status}: {_error(answer)}")
        return answer

    def _results(self, made: Made) -> list[Found[dict[str, Any]]]:
        rows: list[dict[str, Any]] = self._ask(f"{made.kind}/{quote(made.name)}/results").json()["results"]
        return [Found(made, row["name"], row) for row in rows]

    def content(self, result: str) -> tuple[Iterator[bytes], int]:
        """As `Reader.content`."""
        found = self._find(result)
        answer = self._ask(f"{found.run.kind}/{quote(found.run.name)}/results/{quote(found.name)}", stream=True)
        size = int(answer.headers["Content-Length"])
        # Behind a redirect the store answers, whose ETag is another matter.
        sha256 = found.what["sha256"] or answer.headers["ETag"].strip('"')

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
        return _facts(f"{self._name} {result}", self._namespace, self._find(result).what, None, [])

    def _rows(self, found: list[Found[dict[str, Any]]]) -> list[dict[str, Any]]:
        return [one.what for one in found]


def _trusting(ca: str | None) -> ssl.SSLContext:
    """Trusts whom this machine trusts, for a redirect may lead to a store elsewhere, and the authorities in `ca`."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSetting(f"--ca {ca}: no file of certificates (PEM): {error}") from None
    return context


_NO_STORE = Store.open(Settings(store="memory://nothing"))
"""Never asked: for results that are all in status."""


def _facts(label: str, namespace: str, known: dict[str, Any], value: object, places: list[str]) -> dict[str, Any]:
    told = {key: known[key] for key in ("type", "size", "sha256", "spilled")}
    return {"name": label, "namespace": namespace, **told, "value": value, "locations": places}


def _task(task_run: Tree) -> str:
    metadata = task_run["metadata"]
    return str((metadata.get("labels") or {}).get("tekton.dev/pipelineTask") or metadata["name"])


def _summary(kind: str, run: Tree) -> dict[str, Any]:
    conditions: list[Tree] = (run.get("status") or {}).get("conditions") or []
    condition: Tree = next((one for one in conditions if one.get("type") == "Succeeded"), {})
    words = {"True": "Succeeded", "False": "Failed"}
    return {
        "kind": kind,
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
