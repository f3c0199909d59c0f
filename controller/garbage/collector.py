"""The leader's work: look where something was deleted, look again when it is due, and sweep everything now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from controller.garbage.gone import Wish
from controller.garbage.leader import RENEW, Leader
from controller.garbage.sweep import Sweeper, Verdict
from controller.garbage.watching import Watch
from controller.kube.client import Kube
from controller.metrics import Metrics
from resultsfs.errors import InvalidSetting, ResultsError
from resultsfs.settings import Settings
from resultsfs.store import Store

_GATHER = 2.0
"""Seconds between a deletion and the look at its namespace: a PipelineRun goes with all its TaskRuns."""
_PAUSE = 0.5
_log = logging.getLogger(__name__)


class Collector:
    """Collects garbage while it leads, on a thread of its own."""

    def __init__(
        self,
        kube: Kube,
        store: Callable[[], Store],
        settings: Callable[[], Settings],
        metrics: Metrics,
        leader: Leader,
    ) -> None:
        self._kube = kube
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._leader = leader
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self._next_sweep = 0.0
        self._known: dict[str, Wish] = {}
        self._threads = [
            threading.Thread(target=self._lead, name="leader"),
            threading.Thread(target=self._collect, name="garbage"),
        ]
        self._watch = Watch(kube, self._deleted, self._missed)

    def start(self) -> None:
        """Begin."""
        self._watch.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End: what is being deleted is deleted whole, and the lease is given back."""
        self._stop.set()
        self._watch.stop()
        for thread in self._threads:
            thread.join()
        try:
            self._leader.release()
        except OSError as error:
            _log.warning("the lease is left to expire: %s", error)

    def _deleted(self, namespace: str) -> None:
        self._look_at(namespace, time.monotonic() + _GATHER)

    def _missed(self) -> None:
        self._next_sweep = 0.0

    def _look_at(self, namespace: str, moment: float) -> None:
        with self._lock:
            self._due[namespace] = min(moment, self._due.get(namespace, moment))

    def _lead(self) -> None:
        while not self._stop.is_set():
            try:
                self._leader.step()
            except OSError as error:
                _log.warning("lease: %s", error)
            except Exception:  # noqa: BLE001  # a defect must not end this replica's part for ever
                _log.exception("lease")
            self._metrics.leader.set(self._leader())
            self._stop.wait(RENEW)

    def _collect(self) -> None:
        while not self._stop.wait(_PAUSE):
            if not self._leader():
                self._next_sweep = 0.0  # whoever begins to lead begins with a sweep
                continue
            now = time.monotonic()
            with self._lock:
                namespaces = [namespace for namespace, due in self._due.items() if due <= now]
            try:
                if now >= self._next_sweep:
                    self._sweep()
                for namespace in namespaces:
                    with self._lock:
                        del self._due[namespace]
                    self._work(namespace)
            except ResultsError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001  # a defect must not end the collection of garbage for ever
                _log.exception("garbage")
                self._failed(ResultsError(repr(error)))

    def _failed(self, error: ResultsError) -> None:
        self._metrics.garbage_failures.inc()
        level = logging.ERROR if isinstance(error, InvalidSetting) else logging.WARNING
        _log.log(level, "the sweep was given up: %s", error)
        self._next_sweep = time.monotonic() + min(60.0, self._settings().garbage_interval)

    def _sweep(self) -> None:
        settings = self._settings()
        whole = self._work(None)
        aborted = self._store().abort_stale(settings.upload_abandoned_after)
        if aborted:
            _log.info("%d unfinished uploads were removed", aborted)
        if whole:
            self._metrics.last_sweep.set_to_current_time()
        else:
            self._metrics.garbage_failures.inc()
        self._next_sweep = time.monotonic() + settings.garbage_interval

    def _work(self, namespace: str | None) -> bool:
        """Judge and delete; whether the store refused nothing."""
        sweeper = Sweeper(self._kube, self._store(), self._settings(), self._known)
        sweeper.claim()
        verdicts = list(sweeper.judge(namespace, weigh=namespace is None))
        if namespace is None:
            stored = {verdict.namespace for verdict in verdicts}
            self._known = {name: wish for name, wish in self._known.items() if name in stored}
            self._weigh(verdicts)
        for verdict in verdicts:
            self._again(verdict)
        outcome = sweeper.execute(verdicts, lambda: self._leader() and not self._stop.is_set(), self._metrics)
        for verdict in outcome.failed:
            self._metrics.garbage_refused.inc()
            _log.warning("%s/%s stays, and is tried again: %s", verdict.namespace, verdict.uid, verdict.error)
        return not outcome.failed

    def _weigh(self, verdicts: list[Verdict]) -> None:
        sizes: Counter[str] = Counter()
        for verdict in verdicts:
            sizes[verdict.namespace] += 0 if verdict.reason else verdict.size or 0
        self._metrics.store_bytes.clear()
        for namespace, size in sizes.items():
            self._metrics.store_bytes.labels(namespace).set(size)

    def _again(self, verdict: Verdict) -> None:
        """Look again when content becomes due before the next sweep."""
        if verdict.wait is not None and verdict.wait < self._settings().garbage_interval:
            self._look_at(verdict.namespace, time.monotonic() + max(verdict.wait, 0.0) + 1.0)
