"""What is to go, and why; and its deletion.

Prefixes of the store are listed first and the runs afterwards, so that a run whose content is seen was made before the
list that is to have it. Runs or prefixes that could not be listed for certain end the sweep, and nothing is deleted by
it. What the store refuses of one run's content does not keep the others' there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from controller.events import tell
from controller.garbage.gone import UNKNOWN, Gone, Wish, parse
from controller.garbage.living import HELD, Living, Run, held, look
from controller.kube.client import Kube
from controller.kube.errors import NotFound
from controller.kube.resources import NAMESPACES, Tree, annotations_of
from controller.metrics import Metrics
from resultsfs.annotations import HOLD, PREFIX
from resultsfs.errors import InvalidSetting, StoreError
from resultsfs.settings import Settings
from resultsfs.store import Store
from resultsfs.store_names import OWNER, gone_path, run_path
from resultsfs.units import format_duration, format_size

ORPHAN, AGE, SIZE = "orphan", "age", "size"
_CLUSTER = "kube-system"
_FRESH = 10.0
"""Seconds for which runs that were listed again need not be, while content of their namespace is deleted."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one run's content: it goes where `reason` is set, and `why` says it to people.

    `wait`: seconds until it will go, where that is known. `size` in bytes, where it was asked for or goes; `run`: the run,
    where it is there. `error`: what the store said where it would not read, note or delete this run's content.
    `terms`: the namespace's annotations of ours by which it was judged, None where the namespace is gone.
    """

    namespace: str
    uid: UUID
    why: str
    reason: str = ""
    wait: float | None = None
    size: int | None = None
    run: Run | None = None
    error: str = ""
    terms: Mapping[str, str] | None = None


@dataclass(slots=True)
class Outcome:
    """What became of verdicts: those that were carried out, and those that could not be for `error`."""

    deleted: list[Verdict] = field(default_factory=list)
    failed: list[Verdict] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Completed:
    """`at` by the API server's clock; `claimed` by Tekton's, which orders what completed in the same second."""

    verdict: Verdict
    at: datetime
    claimed: str
    size: int


class Sweeper:
    """Looks at the store and at all runs. Methods raise ApiError, InvalidSetting, and StoreError where the store is away."""

    def __init__(self, kube: Kube, store: Store, settings: Settings, known: dict[str, Wish] | None = None) -> None:
        """`known`: what namespaces wanted when they were last seen; it is kept up."""
        self._kube = kube
        self._store = store
        self._settings = settings
        self._known = {} if known is None else known

    def claim(self, *, note: bool = True) -> None:
        """Make sure that this store is this cluster's: another's runs are not here, and would seem to be gone.

        `note`: claim one that is nobody's yet.
        """
        cluster = self._kube.get_metadata(NAMESPACES, None, _CLUSTER)["metadata"]["uid"]
        found = self._store.note(OWNER)
        if found is None:
            if not note:
                return
            self._store.put_note(OWNER, cluster.encode())
            found = self._store.note(OWNER)
        if found != cluster.encode():
            owner = (found or b"").decode("utf-8", "replace")
            raise InvalidSetting(
                f"store {self._store.url} belongs to the cluster with the UID {owner} (of its namespace {_CLUSTER}), "
                f"this one has {cluster}: nothing is deleted. Give each cluster a prefix of its own, or remove "
                f"{self._store.url}/{OWNER} if that cluster is gone."
            )

    def judge(self, namespace: str | None = None, *, note: bool = True, weigh: bool = False) -> Iterator[Verdict]:
        """A verdict on every run of which something is stored.

        `note`: remember since when a run is gone. `weigh`: tell the size of what stays too, one listing a run.
        """
        stored = list(self._store.runs(namespace))
        living = look(self._kube, namespace)
        by_namespace: dict[str, list[UUID]] = {}
        for owner, uid in stored:
            by_namespace.setdefault(owner, []).append(uid)
        for owner, uids in by_namespace.items():
            for verdict in self._namespace(owner, uids, living, note):
                yield self._weighed(verdict) if weigh and verdict.size is None and not verdict.error else verdict

    def _weighed(self, verdict: Verdict) -> Verdict:
        try:
            return replace(verdict, size=self._size(verdict.namespace, verdict.uid))
        except StoreError as error:
            return self._refused(verdict, error)

    def _refused(self, verdict: Verdict, error: StoreError) -> Verdict:
        """The verdict on a run of which alone the store refuses something; raises where the store is away."""
        self._store.note(OWNER)
        return replace(verdict, error=str(error))

    def _namespace(self, namespace: str, uids: Iterable[UUID], living: Living, note: bool) -> Iterator[Verdict]:
        terms = self._terms(namespace)
        there, annotations = terms is not None, terms or {}
        if because := held(annotations):
            if because != HELD:
                _log.warning("namespace %s: nothing is deleted there: it %s", namespace, because)
            self._known[namespace] = Wish(self._settings.retain_after_delete, held=True)
            for uid in uids:
                verdict = Verdict(namespace, uid, f"namespace {namespace} {because}")
                if (namespace, uid) not in living.runs and living.holder(namespace, uid) is None:
                    try:
                        self._gone(namespace, uid, there, living.date, note)
                    except StoreError as error:
                        verdict = self._refused(verdict, error)
                yield verdict
            return
        try:
            settings = self._settings.narrowed(annotations)
        except InvalidSetting as error:
            _log.warning("namespace %s: nothing is deleted there: %s", namespace, error)
            self._known.pop(namespace, None)
            yield from (Verdict(namespace, uid, f"namespace {namespace}: {error}") for uid in uids)
            return
        if there:
            self._known[namespace] = Wish(settings.retain_after_delete)
        done: list[_Completed] = []
        for uid in uids:
            found: Verdict | _Completed
            try:
                found = self._one(namespace, uid, living, settings, there, note)
            except StoreError as error:
                run = living.runs.get((namespace, uid))
                unread = Verdict(namespace, uid, "the store does not let it be judged", run=run)
                found = self._refused(unread, error)
            if isinstance(found, Verdict):
                yield replace(found, terms=terms)
            else:
                done.append(found)
        yield from (replace(verdict, terms=terms) for verdict in _sized(done, settings.retention_size))

    def _terms(self, namespace: str) -> Mapping[str, str] | None:
        try:
            found = annotations_of(self._kube.get_metadata(NAMESPACES, None, namespace))
        except NotFound:
            return None  # gone with all its runs
        return {name: text for name, text in found.items() if name.startswith(PREFIX)}

    def _one(
        self, namespace: str, uid: UUID, living: Living, settings: Settings, there: bool, note: bool
    ) -> Verdict | _Completed:
        key = namespace, uid
        run, holder, keeper = living.runs.get(key), living.holder(*key), living.held.get(key)
        if keeper is not None:
            if keeper.held != HELD:
                _log.warning("content of %s/%s stays: %s %s", namespace, uid, keeper.label, keeper.held)
            return Verdict(namespace, uid, f"{keeper.label} {keeper.held}", run=run)
        if run is None:
            if holder is None:
                return self._orphan(namespace, uid, there, living.date, note)
            return Verdict(namespace, uid, f"{holder.label} needs it")
        if not (settings.retention or settings.retention_size):
            return Verdict(namespace, uid, f"{run.label} is there", run=run)
        return self._aged(run, settings, living)

    def _orphan(self, namespace: str, uid: UUID, there: bool, now: datetime, note: bool) -> Verdict:
        gone = self._gone(namespace, uid, there, now, note)
        why, wish = f"its run is gone since {_show(gone.since)}", gone.wish
        if wish is None:
            why = f"{why}, and so was namespace {namespace} before anybody read how long it keeps content"
            wish = Wish(UNKNOWN)
        if wish.held:
            way_out = f"make it again without {HOLD}, or remove {self._store.url}/{run_path(namespace, uid)}"
            return Verdict(namespace, uid, f"{why}; namespace {namespace} was held when it was deleted: {way_out}")
        # A namespace that is there has the last word; of one that is gone content goes by whoever keeps it longer.
        retain = wish.retain if there else max(wish.retain, self._settings.retain_after_delete)
        wait = self._settings.garbage_grace + retain
        due = gone.since + timedelta(seconds=wait)
        if now < due:
            return Verdict(namespace, uid, f"{why}; it goes at {_show(due)}", wait=_seconds(due, now))
        why = f"{why}, more than {format_duration(wait)} ago"
        return Verdict(namespace, uid, why, ORPHAN, size=self._size(namespace, uid))

    def _gone(self, namespace: str, uid: UUID, there: bool, now: datetime, note: bool) -> Gone:
        """What is known of a run that is gone; noted where that is new."""
        path, wish = gone_path(namespace, uid), self._known.get(namespace)
        found = parse(self._store.note(path))
        if found is None:
            gone = Gone(now, wish)
        elif there:
            released = found.wish is not None and found.wish.held and wish is not None and not wish.held
            gone = Gone(now if released else found.since, wish)
        else:
            gone = Gone(found.since, found.wish or wish)
        if note and gone != found:
            self._store.put_note(path, gone.encoded())
        return gone

    def _aged(self, run: Run, settings: Settings, living: Living) -> Verdict | _Completed:
        """A verdict by age, or what is to be weighed by size."""
        namespace, uid, now = run.namespace, run.uid, living.date
        found = self._unneeded_since(run, living)
        if isinstance(found, str):
            return Verdict(namespace, uid, found, run=run)
        at, claimed, kept = found
        verdict = Verdict(namespace, uid, kept, run=run)
        if settings.retention:
            due = at + timedelta(seconds=settings.retention)
            size = self._size(namespace, uid) if now >= due or settings.retention_size else 0
            if now >= due:
                why = f"{kept}, more than {format_duration(settings.retention)} ago (retention)"
                return replace(verdict, why=why, reason=AGE, size=size)
            verdict = replace(verdict, wait=_seconds(due, now))
            if not settings.retention_size:
                return verdict
            return _Completed(verdict, at, claimed, size)
        return _Completed(verdict, at, claimed, self._size(namespace, uid))

    def _unneeded_since(self, run: Run, living: Living) -> tuple[datetime, str, str] | str:
        """Since when nobody runs who needs a run's content: when, by Tekton's clock, and in words; or why it stays.

        Others that were given it as a path have their time with it, too.
        """
        last: tuple[datetime, str, str] | None = None
        for one in (run, *living.takers(run.namespace, run.uid)):
            what = one.label if one is run else f"{one.label}, which needs it,"
            try:
                tree = self._kube.get(one.resource, one.namespace, one.name)
            except NotFound:
                tree = None
            if tree is None or tree["metadata"]["uid"] != str(one.uid):
                if one is run:
                    return f"{run.label} was deleted just now"
                continue
            if because := held(annotations_of(tree)):
                return f"{what} {because}"
            at = completed(tree)
            if at is None:
                return f"{what} runs"
            if last is None or at > last[0]:
                last = at, tree["status"]["completionTime"], f"{what} completed at {_show(at)}"
        assert last is not None
        return last

    def _size(self, namespace: str, uid: UUID) -> int:
        return sum(size for _, size in self._store.contents(namespace, uid))

    def execute(
        self, verdicts: Iterable[Verdict], go_on: Callable[[], bool], metrics: Metrics | None = None
    ) -> Outcome:
        """Delete what is to go, as long as `go_on()` holds."""
        outcome = Outcome()
        fresh: dict[str, tuple[float, Living]] = {}
        for verdict in verdicts:
            if verdict.error:
                outcome.failed.append(verdict)
            if verdict.error or not verdict.reason:
                continue
            if not go_on():
                break
            namespace = verdict.namespace
            if namespace not in fresh or time.monotonic() - fresh[namespace][0] > _FRESH:
                fresh[namespace] = time.monotonic(), look(self._kube, namespace)
            if because := self._is_needed(verdict, fresh[namespace][1]):
                _log.info("kept %s/%s, which was to go (%s): %s", namespace, verdict.uid, verdict.why, because)
                continue
            try:
                self._store.delete_run(namespace, verdict.uid)
            except StoreError as error:
                outcome.failed.append(self._refused(verdict, error))
                continue
            outcome.deleted.append(verdict)
            self._tell(verdict, metrics)
        return outcome

    def _is_needed(self, verdict: Verdict, living: Living) -> str:
        """Why content stays that was to go; judging all may have taken long, and people may have changed their minds."""
        namespace, uid = verdict.namespace, verdict.uid
        key = namespace, uid
        terms = self._terms(namespace)
        if terms != verdict.terms:
            return f"the annotations of namespace {namespace} were changed since; it is judged anew"
        if key in living.held:
            return f"{living.held[key].label} {living.held[key].held}"
        if verdict.reason == ORPHAN:
            found = living.runs.get(key) or living.holder(*key)
            return "" if found is None else f"{found.label} needs it"
        run = living.runs.get(key)
        if run is None:
            return "its run was deleted since; it is judged anew"
        again = self._unneeded_since(run, living)
        if isinstance(again, str):
            return again
        retention = self._settings.narrowed(terms or {}).retention
        if verdict.reason == AGE and living.date < again[0] + timedelta(seconds=retention):
            return again[2]
        return ""

    def _tell(self, verdict: Verdict, metrics: Metrics | None) -> None:
        size = verdict.size or 0
        _log.info("deleted %s/%s, %s: %s", verdict.namespace, verdict.uid, format_size(size), verdict.why)
        if metrics is not None:
            metrics.garbage_runs.labels(verdict.reason).inc()
            metrics.garbage_bytes.inc(size)
        if verdict.run is not None:
            run = {"namespace": verdict.namespace, "name": verdict.run.name, "uid": str(verdict.uid)}
            tell(self._kube, verdict.run.resource, run, "Normal", "ResultsExpired", f"Spilled results: {verdict.why}")


def completed(run: Tree) -> datetime | None:
    """When a run completed, by the API server's clock; None while it runs.

    `completionTime` is by the clock of the node that Tekton's controller is on, which may be wrong. When it was written,
    the API server noted itself; where nobody kept that note, the run cannot have completed before it was created.
    """
    completion = (run.get("status") or {}).get("completionTime")
    if completion is None:
        return None
    metadata = run["metadata"]
    notes = [note for note in metadata.get("managedFields") or [] if note.get("subresource") == "status"]
    noted = [_moment(note["time"]) for note in notes if note.get("time")]
    return max(noted) if noted else max(_moment(completion), _moment(metadata["creationTimestamp"]))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _sized(done: list[_Completed], limit: int) -> Iterator[Verdict]:
    """Verdicts by the bytes of a namespace: what completed longest ago goes until the rest fits."""
    total = sum(one.size for one in done)
    for one in sorted(done, key=lambda one: (one.at, one.claimed)):
        if limit and total > limit:
            why = (
                f"{one.verdict.why}; the namespace's completed runs have {format_size(total)}, more than "
                f"{format_size(limit)} (retention-size)"
            )
            total -= one.size
            yield replace(one.verdict, why=why, reason=SIZE, size=one.size)
        else:
            yield one.verdict


def _seconds(due: datetime, now: datetime) -> float:
    return (due - now).total_seconds()


def _show(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
