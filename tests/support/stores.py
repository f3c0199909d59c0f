"""Stores of each kind for tests, and content to put into them."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resultsfs.settings import Settings
from resultsfs.store import Key, Store

BACKENDS = ["memory", "file", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=BACKENDS)
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of an empty store, one of each backend in turn."""
    if request.param == "memory":
        return Settings(store=f"memory://{uuid.uuid4()}/prefix")
    if request.param == "file":
        return Settings(store=f"file://{tmp_path}/store/prefix")
    settings: Settings = request.getfixturevalue("s3_server").settings()
    return settings


@pytest.fixture
def store(store_settings: Settings) -> Iterator[Store]:
    """An open, empty store of each backend in turn."""
    store = Store.open(store_settings)
    yield store
    for namespace, run in list(store.runs()):
        store.delete_run(namespace, run)
    store.close()


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that do not repeat; the same for the same size and seed."""
    return random.Random(seed).randbytes(size)


def key_of(data: bytes, namespace: str = "team-a", run: uuid.UUID | None = None) -> Key:
    """The key of that content, in a run of its own unless one is given."""
    return Key(namespace, run or uuid.uuid4(), hashlib.sha256(data).hexdigest())


def chunks_of(data: bytes, size: int = 1 << 20) -> Callable[[], Iterator[bytes]]:
    """What `Store.put` reads: the bytes in chunks, as often as it asks."""
    return lambda: (data[start : start + size] for start in range(0, len(data), size))


def put(store: Store, data: bytes, key: Key | None = None) -> Key:
    """Store the bytes, return where."""
    key = key or key_of(data)
    store.put(key, chunks_of(data), len(data))
    return key
