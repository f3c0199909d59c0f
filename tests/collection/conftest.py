"""A volume without a mount: files are written as the filesystem would tell it, collectors ask directly."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from resultsfs.collection import Collection
from resultsfs.collector import Collector
from resultsfs.events import Event
from resultsfs.manifest import ManifestEntry, parse
from resultsfs.record import Keep, Mode, ResultType, VolumeRecord
from resultsfs.reference import Reference
from resultsfs.settings import Settings
from resultsfs.spool import Spool
from resultsfs.store import Key, Store
from resultsfs.volume import Volume
from resultsfs.workers import Workers
from tests.support.waiting import DEADLINE

WORKERS = 2
"""Threads of each kind."""


class Host:
    """A host that answers from the test, and keeps the events."""

    def __init__(self, types: Mapping[str, ResultType] | None, containers: int | None) -> None:
        self.types, self.containers = types, containers
        self.asked_types = self.asked_containers = 0
        self.events: list[Event] = []

    def result_types(self) -> Mapping[str, ResultType] | None:
        """Declared types, counted."""
        self.asked_types += 1
        return self.types

    def container_count(self) -> int | None:
        """Containers of the live pod, counted."""
        self.asked_containers += 1
        return self.containers

    def event(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)


class Bench:
    """One volume and what tests do with it."""

    def __init__(self, directory: Path, record: VolumeRecord, settings: Settings, host: Host) -> None:
        self.directory, self.record, self.settings, self.host = directory, record, settings, host
        self.store = Store.open(settings)
        self._pids = itertools.count(1)
        self.start()
        # a new volume looks for what a predecessor left; in an empty spool it must not find what a test is writing
        looked = threading.Barrier(WORKERS + 1, timeout=DEADLINE)

        def meet() -> None:
            looked.wait()

        for _worker in range(WORKERS):
            self.workers[0].submit(meet)
        meet()

    def start(self) -> None:
        """Bring the volume up on the spool, as a new daemon would."""
        self.spool = Spool(self.directory)
        self.workers = background, awaited = (
            Workers(WORKERS, "background"),
            Workers(WORKERS, "awaited"),
        )
        self.volume = Volume(self.record, self.settings, self.spool, lambda: self.store, self.host, background, awaited)

    def stop(self) -> None:
        """Take the volume down."""
        self.volume.close()
        for workers in self.workers:
            workers.close()
        self.spool.close()

    def write(self, name: str, content: bytes) -> None:
        """What a step does: create, write, close."""
        path = self.directory / "files" / name
        path.write_bytes(content)
        node = self.volume.nodes.get(path.stat())
        self.volume.nodes.changed(node, len(content))
        self.volume.written(node)

    def file(self, name: str) -> Path:
        """Where a result's file lies in the spool."""
        return self.directory / "files" / name

    def collector(self) -> Collection:
        """A new collector process's view."""
        return self.volume.collection(Collector(next(self._pids), 0))

    def read(self, collection: Collection, name: str) -> bytes | None:
        """What the collector reads, to the end; None for ENOENT."""
        try:
            value = collection.read(name, lambda: False)
        except FileNotFoundError:
            return None
        collection.delivered(name)
        return value

    def collect(self) -> dict[str, bytes]:
        """One whole collector: all results in declared order."""
        collection = self.collector()
        values = {name: self.read(collection, name) for name in self.record.results}
        return {name: value for name, value in values.items() if value is not None}

    def content(self, reference: bytes | str) -> bytes:
        """What a reference stands for."""
        text = reference.decode() if isinstance(reference, bytes) else reference
        found = Reference.match(text)
        assert found is not None, f"{text[:120]!r} is no reference"
        return self.store.fetch(Key.of(self.record.namespace, found), 1 << 30)

    def reasons(self) -> list[str]:
        """The reasons of all events so far."""
        return [event.reason for event in self.host.events]

    def manifest(self) -> dict[str, ManifestEntry]:
        """The results in this pod's manifest in the store, by name."""
        manifests = list(self.store.manifests(self.record.namespace, self.record.run_uid))
        assert len(manifests) <= 1
        return {entry.name: entry for found in manifests for entry in parse(found.data)}


MakeBench = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[MakeBench]:
    """Makes volumes: `bench(results, types=…, containers=…, kept=…, mode=…, settings=…)`."""
    made: list[Bench] = []

    def make(
        results: tuple[str, ...] = ("a", "b", "c"),
        *,
        types: Mapping[str, ResultType] | None = None,
        containers: int = 1,
        live: int | None = None,
        kept: Mapping[str, Keep] | None = None,
        mode: Mode = Mode.TERMINATION_MESSAGE,
        max_result_size: int = 4096,
        settings: Settings | None = None,
        **more: object,
    ) -> Bench:
        directory = tmp_path / f"volume-{len(made)}"
        chosen = settings or Settings(**{"store": f"file://{tmp_path}/store", "spill_delay": 0, **more})  # type: ignore[arg-type]
        record = VolumeRecord(
            "v", "default", "tr", uuid4(), UUID(int=len(made) + 1), results, containers=containers,
            mode=mode, max_result_size=max_result_size, kept=kept or {},
        )  # fmt: skip
        found = Bench(directory, record, chosen, Host(types if types is not None else {}, live))
        made.append(found)
        return found

    yield make
    for found in made:
        found.stop()
        found.store.close()
    assert not [name for name in os.listdir("/proc/self/fd") if _leads_into(name, tmp_path)]


def _leads_into(descriptor: str, directory: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(directory))
    except FileNotFoundError:
        return False
