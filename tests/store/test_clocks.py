"""What an upload left behind is old by the store's own clock: that of the node which looks may be wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from resultsfs.errors import StoreRefused
from resultsfs.settings import Settings
from resultsfs.store import Store
from tests.support.faultproxy import Fault, FaultProxy, Kind
from tests.support.stores import content, put

DAY = 86_400
PART = 5 << 20
_now = time.time


class Tomorrow(datetime):
    """A clock that is a day ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Tomorrow:
        """A day ahead."""
        return cls.fromtimestamp(_now() + DAY, tz)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's clock is a day ahead, wherever it is asked."""
    monkeypatch.setattr("resultsfs.store_s3.datetime", Tomorrow)
    monkeypatch.setattr("time.time", lambda: _now() + DAY)
    yield


@pytest.mark.s3
def test_an_upload_that_is_under_way_is_not_aborted(fault_proxy: FaultProxy, request: pytest.FixtureRequest) -> None:
    """Begun just now in a bucket, it is no day old, whatever this machine's clock says."""
    store = Store.open(fault_proxy.settings(store_part_size=PART, store_retries=0))
    assert store.abort_stale(0) == 0
    fault_proxy.fault = Fault(Kind.ANSWER, match="uploadId=", status=403, code="AccessDenied")
    with pytest.raises(StoreRefused):
        put(store, content(2 * PART))
    fault_proxy.fault = None
    request.getfixturevalue("ahead")
    # Signatures carry this machine's time: a store that is a day behind would refuse them. The server here does not.
    assert store.abort_stale(DAY / 2) == 0
    assert store.abort_stale(0) == 1
    store.close()


def test_a_file_that_is_being_written_is_not_removed(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Nor in a directory, whose files have the times of its own clock; what is old goes."""
    store = Store.open(Settings(store=f"file://{tmp_path}/store"))
    put(store, content(10))
    young = tmp_path / "store" / ".unfinished" / "young"
    young.parent.mkdir(exist_ok=True)
    young.write_bytes(b"half")
    request.getfixturevalue("ahead")
    assert store.abort_stale(DAY / 2) == 0
    assert young.exists()
    assert store.abort_stale(0) == 1
    assert list(young.parent.iterdir()) == []
    store.close()
