"""From what a person names on the command line to a content in a store.

A name is a reference, or a run of this machine and one of its results. A cluster's runs are in `clusters`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from resultsfs.cli.history import History
from resultsfs.cli.options import settings_from
from resultsfs.cli.places import runs_directory
from resultsfs.errors import ContentTooLarge, InvalidKey
from resultsfs.local.plan import ResultOutcome
from resultsfs.record import ResultValue
from resultsfs.reference import Reference
from resultsfs.resolve import StoredContent
from resultsfs.settings import Settings
from resultsfs.store import Key, Store
from resultsfs.units import format_size
from resultsfs.value import encoded, original, single_reference

MEMORY_LIMIT = 256 << 20
"""Bytes of content that a command takes into memory, where it cannot be streamed."""


@dataclass(frozen=True, slots=True)
class Named:
    """What was named: a value as Tekton's status holds it, and whose it is. `result` is None for a reference."""

    label: str
    namespace: str
    settings: Settings
    value: ResultValue
    result: ResultOutcome | None = None


class Local:
    """The runs of this machine."""

    def __init__(self, history: History | None = None) -> None:
        self._history = history or History(runs_directory())

    def named(self, run: str, result: str, settings_file: str | None, store: str | None) -> Named:
        """`result` may be `NAME`, or `TASK/NAME` where several tasks have one of that name."""
        past = self._history.find(run)
        candidates = {f"{past.outcome.name}/{own.name}": own for own in past.outcome.results}
        # a pipeline's own result comes before its tasks'
        found = [own for own in past.outcome.results if own.name == result]
        if not found:
            for task_run in past.outcome.task_runs:
                for own in task_run.results:
                    task = task_run.pipeline_task or task_run.name
                    candidates[f"{task}/{own.name}"] = own
                    if result in (own.name, f"{task}/{own.name}", f"{task_run.name}/{own.name}"):
                        found.append(own)
        if not found:
            raise InvalidKey(f"run {run!r} has no result {result!r}; there are: {', '.join(candidates) or 'none'}")
        if any(other != found[0] for other in found):
            choices = ", ".join(name for name in candidates if name.endswith(f"/{result}"))
            raise InvalidKey(f"run {run!r} has several results {result!r}: say which of {choices}")
        settings = settings_from(settings_file, store, past.settings)
        return Named(f"{run} {result}", past.outcome.namespace, settings, found[0].value, found[0])


def named(
    target: str,
    result: str | None,
    namespace: str | None,
    settings_file: str | None,
    store: str | None,
) -> Named:
    """What `REFERENCE` or `RUN RESULT` stands for. Raises InvalidReference, InvalidKey or InvalidSetting."""
    if result is None:
        reference = Reference.parse(target)
        settings = settings_from(settings_file, store)
        return Named(str(reference), namespace or "default", settings, str(reference))
    found = Local().named(target, result, settings_file, store)
    if namespace is not None and namespace != found.namespace:
        raise InvalidKey(f"run {target!r} is in namespace {found.namespace!r}, not in {namespace!r}")
    return found


def content(item: Named, store: Store) -> tuple[Iterator[bytes], int]:
    """A value's content, verified, with content in place of its references; and its size in bytes.

    A single reference is streamed; its last block comes only when all of it is proven. Raises StoreError, and
    ContentTooLarge for a value of many parts that does not fit MEMORY_LIMIT.
    """
    reference = single_reference(item.value)
    if reference is not None:
        key = Key.of(item.namespace, reference)
        size = store.size(key)
        return store.verified(key, size), size
    data = original(item.value, StoredContent(store, item.namespace), item.label, MEMORY_LIMIT)
    chunk = encoded(data)
    return iter([chunk]), len(chunk)


def whole(chunks: Iterator[bytes], size: int, label: str) -> bytes:
    """A content in memory. Raises ContentTooLarge beyond MEMORY_LIMIT, before it is read."""
    if size > MEMORY_LIMIT:
        raise ContentTooLarge(
            f"{label} has {format_size(size)}, of which at most {format_size(MEMORY_LIMIT)} can be searched here: "
            "get it into a file"
        )
    return b"".join(chunks)
