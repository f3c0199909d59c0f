"""Who collects garbage: the holder of a Lease (coordination.k8s.io/v1), by the rules that Kubernetes' own clients use.

No clock is compared with another's: a lease has expired when nobody has renewed it for its whole duration as seen here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from controller.kube.client import Kube
from controller.kube.errors import Conflict, NotFound
from controller.kube.resources import LEASES, Tree

DURATION = 15
"""Seconds without a renewal after which others may take the lease."""
RENEW = 3.0
"""Seconds between two tries to take or renew it."""
TRUST = 10.0
"""Seconds after its last renewal for which the holder goes on; less than DURATION, so that there are never two."""
_log = logging.getLogger(__name__)


class Leader:
    """One candidate."""

    def __init__(
        self, kube: Kube, namespace: str, name: str, identity: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None

    def __call__(self) -> bool:
        """Whether this candidate is the leader at this moment."""
        renewed = self._renewed_at
        return renewed is not None and self._clock() - renewed < TRUST

    def step(self) -> bool:
        """Take or renew the lease if it can be had; whether it was. Raises ApiError."""
        began = self._clock()
        try:
            lease = self._kube.get(LEASES, self._namespace, self._name)
        except NotFound:
            made = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": self._spec({}),
            }
            return self._won(began, lambda: self._kube.create(LEASES, self._namespace, made))
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        state = (holder, str(spec.get("renewTime")))
        if state != self._seen:
            self._seen, self._seen_at = state, began
        expired = self._clock() - self._seen_at >= float(spec.get("leaseDurationSeconds") or DURATION)
        if holder not in ("", self._identity) and not expired:
            self._renewed_at = None
            return False
        lease["spec"] = self._spec(spec)
        return self._won(began, lambda: self._kube.update(LEASES, self._namespace, lease))

    def release(self) -> None:
        """Let others have it at once. Raises ApiError."""
        if self._renewed_at is None:
            return
        self._renewed_at = None
        lease = self._kube.get(LEASES, self._namespace, self._name)
        if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
            lease["spec"] = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            self._kube.update(LEASES, self._namespace, lease)

    def _won(self, began: float, write: Callable[[], Tree]) -> bool:
        was = self()
        try:
            write()
        except Conflict:
            self._renewed_at = None
            return False
        self._renewed_at = began
        if not was:
            _log.info("%s collects garbage", self._identity)
        return True

    def _spec(self, before: Tree) -> Tree:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        mine = before.get("holderIdentity") == self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION,
            "acquireTime": before.get("acquireTime") if mine else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if mine else 1),
        }
