"""What the filesystem asks of whoever runs it: the node driver on a cluster, the local runner on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from resultsfs.events import Event, EventSink
from resultsfs.record import ResultType, VolumeRecord


class Host(Protocol):
    """Asked when a collector comes, and by the next one again what it did not know; may block on a network, must not
    raise."""

    def result_types(self) -> Mapping[str, ResultType] | None:
        """Declared types by result name; None when they cannot be had (results then count as strings)."""
        ...

    def container_count(self) -> int | None:
        """Containers and init containers of the live pod; None when that cannot be had."""
        ...

    def event(self, event: Event) -> None:
        """Report an event; must not block."""
        ...


class RecordHost:
    """A host that knows no more than the volume's record."""

    def __init__(self, record: VolumeRecord, events: EventSink) -> None:
        self._record = record
        self._events = events

    def result_types(self) -> Mapping[str, ResultType] | None:
        """The record's types; a result that it does not name is a string, as in Tekton."""
        return self._record.types

    def container_count(self) -> int | None:
        """The record's count."""
        return self._record.containers

    def event(self, event: Event) -> None:
        """Hand the event on."""
        self._events(event)
