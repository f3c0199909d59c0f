"""Prometheus metrics of a replica. What each means, and the alerts on them, is in `docs/operations.md`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.admission = Histogram(
            "resultsfs_admission_duration_seconds",
            "Time to answer an admission request, by webhook (pods, runs) and status code (200, 422, 503; 500: failed).",
            ("webhook", "code"),
            registry=registry,
            buckets=_BUCKETS,
        )
        self.pods = Counter(
            "resultsfs_admission_pods",
            "Pods by what became of them: injected, observed, off, no-results, unserved (for Windows, or sandboxed), refused "
            "(it was handed paths and cannot have the volume), forged (its owner is not what it claims), "
            "foreign (no pod of a TaskRun).",
            ("outcome",),
            registry=registry,
        )
        self.put_back = Counter(
            "resultsfs_put_back_bytes", "Bytes of content that were put back into runs.", registry=registry
        )
        self.api = Counter(
            "resultsfs_api_requests", "Requests to the HTTP API by status code.", ("code",), registry=registry
        )
        self.api_bytes = Counter("resultsfs_api_bytes", "Bytes of content that the HTTP API sent.", registry=registry)
        self.certificate_expiry = Gauge(
            "resultsfs_certificate_expiry_timestamp_seconds",
            "When the certificate of the webhooks and the HTTP API expires.",
            registry=registry,
        )
        self.leader = Gauge("resultsfs_leader", "1 where this replica collects garbage.", registry=registry)
        self.garbage_runs = Counter(
            "resultsfs_garbage_runs",
            "Runs whose content was deleted, by reason: orphan, age, size.",
            ("reason",),
            registry=registry,
        )
        self.garbage_bytes = Counter("resultsfs_garbage_bytes", "Bytes of their content.", registry=registry)
        self.garbage_failures = Counter(
            "resultsfs_garbage_failures",
            "Sweeps that were given up, or left something that the store would not delete.",
            registry=registry,
        )
        self.garbage_refused = Counter(
            "resultsfs_garbage_refused",
            "Runs whose content the store would not read, note or delete, at each try.",
            registry=registry,
        )
        self.last_sweep = Gauge(
            "resultsfs_garbage_last_sweep_timestamp_seconds", "When the last whole sweep ended.", registry=registry
        )
        self.store_bytes = Gauge(
            "resultsfs_store_bytes",
            "Bytes of content at the last sweep, by namespace.",
            ("namespace",),
            registry=registry,
        )
