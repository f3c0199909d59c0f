"""From what a person names on the command line to a content in a store.

A name is a reference, or a run of this machine and one of its results. A cluster's runs are in `clusters`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from resultsfs.cli.history import History
from resultsfs.cli.options import settings_from
from resultsfs.cli.places import runs_directory
from resultsfs.errors import ContentTooLarge, InvalidKey, InvalidReference
from resultsfs.local.outcome import RunOutcome
from resultsfs.local.plan import ResultOutcome
from resultsfs.record import ResultValue
from resultsfs.reference import WHOLE_ARRAY, Reference
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


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A result of a run, and how to name it; `owner` is its TaskRun's name, None for the run's own."""

    name: str
    result: ResultOutcome
    owner: str | None = None
    task: str = ""

    def is_called(self, text: str) -> bool:
        forms = [self.name, self.result.name]
        if self.owner is not None:
            forms += [f"{self.owner}/{self.result.name}", f"{self.task}/{self.result.name}"]
        return text in forms


def _candidates(outcome: RunOutcome) -> list[_Candidate]:
    found = [_Candidate(f"{outcome.name}/{own.name}", own) for own in outcome.results]
    tasks = {task_run.name: task_run.pipeline_task or task_run.name for task_run in outcome.task_runs}
    times = Counter(tasks.values())
    for task_run in outcome.task_runs:
        task = tasks[task_run.name]
        prefix = task if times[task] == 1 else task_run.name
        found += [_Candidate(f"{prefix}/{own.name}", own, task_run.name, task) for own in task_run.results]
    return found


def _names(candidates: Iterable[_Candidate]) -> str:
    return ", ".join(dict.fromkeys(candidate.name for candidate in candidates)) or "none"


class Local:
    """The runs of this machine."""

    def __init__(self, history: History | None = None) -> None:
        self._history = history or History(runs_directory())

    def named(self, run: str, result: str, settings_file: str | None, store: str | None) -> Named:
        """`result` may be `NAME`, `TASK/NAME`, or `TASKRUN/NAME` where a task has several TaskRuns."""
        past = self._history.find(run)
        candidates = _candidates(past.outcome)
        # a pipeline's own result comes before its tasks'
        found = [candidate for candidate in candidates if candidate.is_called(result)]
        found = [candidate for candidate in found if candidate.owner is None] or found
        if not found:
            raise InvalidKey(f"run {run!r} has no result {result!r}; there are: {_names(candidates)}")
        if any(other.result != found[0].result for other in found):
            raise InvalidKey(f"run {run!r} has several results {result!r}: say which of {_names(found)}")
        settings = settings_from(settings_file, store, past.settings)
        return Named(f"{run} {result}", past.outcome.namespace, settings, found[0].result.value, found[0].result)

    def results(self, run: str) -> str | None:
        """How the results of a run are named, for people; None where there is no such run."""
        try:
            return _names(_candidates(self._history.find(run).outcome))
        except InvalidKey:
            return None


def named(
    target: str,
    result: str | None,
    namespace: str | None,
    settings_file: str | None,
    store: str | None,
) -> Named:
    """What `REFERENCE` or `RUN RESULT` stands for. Raises InvalidReference, InvalidKey or InvalidSetting."""
    if result is None:
        value = _value(target)
        return Named(target, namespace or "default", settings_from(settings_file, store), value)
    found = Local().named(target, result, settings_file, store)
    if namespace is not None and namespace != found.namespace:
        raise InvalidKey(f"run {target!r} is in namespace {found.namespace!r}, not in {namespace!r}")
    return found


def _value(target: str) -> ResultValue:
    """The value that is a reference, as a person gives it: of a content, or with `[*]` of a whole array."""
    try:
        reference = str(Reference.parse(target.removesuffix(WHOLE_ARRAY)))
    except InvalidReference as error:
        there = Local().results(target)
        if there is not None:
            raise InvalidKey(f"{target!r} is a run: name one of its results, which are: {there}") from None
        raise InvalidReference(f"{error.message}; nor is it a run of this machine") from None
    return [reference + WHOLE_ARRAY] if target.endswith(WHOLE_ARRAY) else reference


def content(item: Named, store: Store) -> tuple[Iterator[bytes], int]:
    """A value's content, verified, with content in place of its references; and its size in bytes.

    A single reference is streamed; its last block comes only when all of it is proven. Raises StoreError, and
    ResolveError for a value of many parts that does not fit MEMORY_LIMIT, or cannot be put together.
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
