"""Prometheus metrics of the two processes. What each means, and the alerts on them, is in `docs/operations.md`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_UPLOAD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_OF_THE_STORE = ("ResultSpillFailed", "StoreError", "StoreRefused", "StoreUnavailable")


def _events(registry: CollectorRegistry) -> Counter:
    found = Counter(
        "resultsfs_events",
        "Events for pods and TaskRuns by what became of them: sent, limited (by the rate), failed, dropped.",
        ("outcome",),
        registry=registry,
    )
    for outcome in ("sent", "limited", "failed", "dropped"):
        found.labels(outcome)
    return found


class DriverMetrics:
    """Of the process that answers the kubelet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "resultsfs_csi_request_duration_seconds",
            "Time to answer a CSI request, by method (NodePublishVolume, …) and gRPC status code (OK, ABORTED, …).",
            ("method", "code"),
            registry=self.registry,
            buckets=_REQUEST_BUCKETS,
        )
        self.volumes = Gauge(
            "resultsfs_volumes",
            "Volumes that are published on this node, as their records say.",
            registry=self.registry,
        )
        self.dead_mounts = Gauge(
            "resultsfs_dead_mounts",
            "Mounts of volumes whose descriptor nobody holds any more; a new mount is stacked over each.",
            registry=self.registry,
        )
        self.not_served = Gauge(
            "resultsfs_volumes_not_served",
            "Volumes that are published and that no mounter serves: steps that touch their results wait.",
            registry=self.registry,
        )
        self.stacked = Counter(
            "resultsfs_mounts_stacked", "Mounts that were put over a dead one.", registry=self.registry
        )
        self.orphans = Counter(
            "resultsfs_orphans_removed",
            "Volumes of pods that are gone, which were found and removed.",
            registry=self.registry,
        )
        self.events = _events(self.registry)


class MounterMetrics:
    """Of the process that serves the mounts. An Observer for its volumes."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.store_error: str | None = None
        """What the latest upload failed by; None when it succeeded, or there was none."""
        self.results = Counter(
            "resultsfs_results",
            "Results that a collector has read, by form: inline or spilled.",
            ("form",),
            registry=registry,
        )
        self.result_bytes = Counter(
            "resultsfs_result_bytes", "Bytes of content of those results, by form.", ("form",), registry=registry
        )
        self.uploads = Histogram(
            "resultsfs_upload_duration_seconds",
            "Time until a content was durable in the store, all tries together.",
            registry=registry,
            buckets=_UPLOAD_BUCKETS,
        )
        self.upload_bytes = Counter("resultsfs_upload_bytes", "Bytes made durable in the store.", registry=registry)
        self.cache_opens = Counter(
            "resultsfs_cache_opens",
            "Opens of content by reference, by outcome: hit (it was on this node) or miss (it had to be fetched).",
            ("outcome",),
            registry=registry,
        )
        self.store_retries = Counter(
            "resultsfs_store_retries", "Requests to the store that were tried again.", registry=registry
        )
        self.errors = Counter(
            "resultsfs_errors",
            "Failures by cause: StoreUnavailable, StoreRefused, VolumeFull, NodeDiskFull, ResultTooLarge, ApiError, ….",
            ("cause",),
            registry=registry,
        )
        self.events = _events(registry)
        self.take_overs = Counter(
            "resultsfs_takeovers", "Mounts that this process took over from a predecessor.", registry=registry
        )
        self.reloads = Counter(
            "resultsfs_settings_reloads",
            "Times that the settings changed, by outcome: applied, refused.",
            ("outcome",),
            registry=registry,
        )
        for form in ("inline", "spilled"):
            self.results.labels(form)
            self.result_bytes.labels(form)
        for counter, outcomes in (
            (self.reloads, ("applied", "refused")),
            (self.cache_opens, ("hit", "miss")),
        ):
            for outcome in outcomes:
                counter.labels(outcome)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when somebody scrapes."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def published(self, size: int, *, spilled: bool) -> None:
        """Count a result."""
        form = "spilled" if spilled else "inline"
        self.results.labels(form).inc()
        self.result_bytes.labels(form).inc(size)

    def uploaded(self, size: int, seconds: float) -> None:
        """Count an upload."""
        self.store_error = None
        self.uploads.observe(seconds)
        self.upload_bytes.inc(size)

    def opened(self, *, cached: bool) -> None:
        """Count an open of content by reference."""
        self.cache_opens.labels("hit" if cached else "miss").inc()

    def failed(self, cause: str) -> None:
        """Count a failure."""
        if cause in _OF_THE_STORE:
            self.store_error = cause
        self.errors.labels(cause).inc()

    def retried(self) -> None:
        """Count a request that is tried again."""
        self.store_retries.inc()


MOUNTER_GAUGES = {
    "resultsfs_mounts": "Mounts that this process serves.",
    "resultsfs_upload_queue": "Uploads that wait for a thread.",
    "resultsfs_cache_bytes": "Bytes of content fetched by reference that this node keeps.",
    "resultsfs_cache_limit_bytes": "The setting cache-size-limit.",
    "resultsfs_spool_bytes": "Bytes of all volumes' files on this node.",
    "resultsfs_spool_entries": "Files, directories and links of all volumes (node-file-limit).",
    "resultsfs_spool_limit_bytes": "The setting node-spool-limit; 0 for none.",
    "resultsfs_disk_free_bytes": "Bytes free on the disk of the spools and the cache.",
    "resultsfs_disk_reserve_bytes": "What must stay free by the setting node-disk-reserve.",
    "resultsfs_disk_full": "1 while writes are refused with ENOSPC so that the node's disk does not fill.",
    "resultsfs_store_answers": "0 after an upload failed, until one succeeds; else 1.",
}
"""What the mounter's gauges are called and mean."""
