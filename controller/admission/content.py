"""Content as one admission request may fetch it: by a deadline, for the API server does not wait long."""

from __future__ import annotations

import time
from dataclasses import dataclass

from resultsfs.errors import ContentTooLarge, StoreUnavailable, UploadAbandoned
from resultsfs.reference import Reference
from resultsfs.store import Key, Store


@dataclass(frozen=True, slots=True)
class TimedContent:
    """A namespace's content in a store; `deadline` by time.monotonic. See `resultsfs.resolve.Content`."""

    store: Store
    namespace: str
    deadline: float

    def _late(self) -> bool:
        return time.monotonic() > self.deadline

    def _too_late(self) -> StoreUnavailable:
        return StoreUnavailable(f"store {self.store.url} did not answer in time")

    def size(self, reference: Reference) -> int:
        """As `Content.size`."""
        try:
            return self.store.size(Key.of(self.namespace, reference), stop=self._late)
        except UploadAbandoned:
            raise self._too_late() from None

    def fetch(self, reference: Reference, limit: int) -> bytes:
        """As `Content.fetch`."""
        key = Key.of(self.namespace, reference)
        size = self.size(reference)
        if size > limit:
            raise ContentTooLarge(f"content {key} has {size} bytes, of which at most {limit} can be taken here")
        try:
            return b"".join(self.store.verified(key, size, stop=self._late))
        except UploadAbandoned:
            raise self._too_late() from None
