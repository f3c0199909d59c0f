"""The node cache: one download for all, last block after verification, limit and order of use, restarts."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resultsfs.cache import Cache
from resultsfs.errors import ContentMismatch, ContentMissing, NotSupported, ResultsError, StoreUnavailable
from resultsfs.settings import Settings
from resultsfs.store import BLOCK, Key, Store
from tests.support.faultproxy import Fault, FaultProxy, Kind
from tests.support.stores import content, key_of, put

NEVER = 1 << 40
Make = Callable[..., Cache]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    """Makes caches in one directory that are closed after the test."""
    caches: list[Cache] = []

    def make(store: Store, limit: int = NEVER) -> Cache:
        caches.append(Cache(tmp_path / "cache", limit, store))
        return caches[-1]

    yield make
    for cache in caches:
        cache.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "cache-download"]


@pytest.fixture
def proxied(fault_proxy: FaultProxy) -> Iterator[Store]:
    """A store behind the proxy."""
    store = Store.open(fault_proxy.settings(store_retries=1))
    yield store
    fault_proxy.fault = None
    store.close()


def files(directory: Path) -> dict[str, int]:
    """Size by path of what the cache has on the disk, but for its lock."""
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): path.stat().st_size for path in found}


def read_all(cache: Cache, key: Key, step: int = 100_000) -> bytes:
    """The content by reads of that size."""
    with cache.open(key) as handle:
        return b"".join(handle.read(step, at) for at in range(0, handle.size, step))


@pytest.mark.parametrize("size", [0, 1, BLOCK, 3 * BLOCK + 11])
def test_content_is_read_through_the_cache(store: Store, made: Make, size: int) -> None:
    """Content of any size reads back whole, at any offset, with its size; beyond its end is nothing."""
    data = content(size)
    cache = made(store)
    key = put(store, data)
    assert read_all(cache, key) == data
    with cache.open(key) as handle:
        assert handle.size == size
        assert handle.read(size + 100, 0) == data
        assert handle.read(10, size) == b""
        assert handle.read(10, size + 99) == b""
        assert handle.read(100, size // 2) == data[size // 2 : size // 2 + 100]


def test_what_is_missing(store: Store, made: Make, tmp_path: Path) -> None:
    """Content that is not there is ENOENT at open, leaves nothing, and can come later."""
    cache = made(store)
    data = b"later"
    key = key_of(data)
    with pytest.raises(ContentMissing) as caught:
        cache.open(key)
    assert caught.value.errno == errno.ENOENT
    assert files(tmp_path / "cache") == {}
    put(store, data, key)
    assert read_all(cache, key) == data


def test_keys_are_kept_apart(store: Store, made: Make) -> None:
    """What one namespace's run has in the cache is still missing for another that knows digest and run."""
    cache = made(store)
    key = put(store, b"secret")
    assert read_all(cache, key) == b"secret"
    with pytest.raises(ContentMissing):
        cache.open(Key("team-b", key.run, key.sha256))


def test_files_are_private(store: Store, made: Make, tmp_path: Path) -> None:
    """Cached files are 0600, directories 0700."""
    read_all(made(store), put(store, b"secret"))
    for path in (tmp_path / "cache").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.s3
def test_readers_share_one_download(proxied: Store, made: Make, fault_proxy: FaultProxy) -> None:
    """Eight readers that open the same content at once cause one HEAD and one GET for each block."""
    data = content(2 * BLOCK + 5)
    key = put(proxied, data)
    cache = made(proxied)
    before = len(fault_proxy.seen)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: read_all(cache, key) == data, range(8)))
    assert sorted(request.method for request in fault_proxy.seen[before:]) == ["GET", "GET", "GET", "HEAD"]


@pytest.mark.s3
def test_a_reader_waits_only_for_its_own_bytes(proxied: Store, made: Make, fault_proxy: FaultProxy) -> None:
    """While the last block's request hangs, the first block is read; a reader of the last one gets it afterwards."""
    data = content(3 * BLOCK)
    key = put(proxied, data)
    last = f"bytes={2 * BLOCK}-{3 * BLOCK - 1}"
    fault_proxy.fault = Fault(Kind.HANG, "GET", in_range=last)
    with made(proxied).open(key) as handle, ThreadPoolExecutor(1) as pool:
        late = pool.submit(handle.read, 10, 3 * BLOCK - 10)
        assert handle.read(BLOCK, 0) == data[:BLOCK]
        fault_proxy.wait_for_hits(1)
        assert not late.done()
        fault_proxy.fault = None
        assert late.result(60) == data[-10:]


@pytest.mark.parametrize("size", [10, 3 * BLOCK])
def test_wrong_content_is_never_shown_to_its_end(store: Store, made: Make, tmp_path: Path, size: int) -> None:
    """Every reader of content that is not its digest's gets EIO for the last block; the next open tries again."""
    data, wrong = content(size), content(size, seed=1)
    key = key_of(data)
    store.backend.put(key.path, wrong, lambda: False)
    cache = made(store)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(read_all, cache, key) for _ in range(4)]:
            with pytest.raises(ContentMismatch) as caught:
                future.result(60)
            assert caught.value.errno == errno.EIO
    cache.close()
    assert files(tmp_path / "cache") == {}
    store.backend.put(key.path, data, lambda: False)
    assert read_all(made(store), key) == data


@pytest.mark.s3
def test_errors_of_the_store_reach_all_readers(proxied: Store, made: Make, fault_proxy: FaultProxy) -> None:
    """A download that fails gives its readers the store's error; the next open tries again."""
    data = content(3 * BLOCK)
    key = put(proxied, data)
    cache = made(proxied)
    fault_proxy.fault = Fault(Kind.ANSWER, "GET")
    with cache.open(key) as first, cache.open(key) as second:
        for handle in (first, second, first):
            with pytest.raises(StoreUnavailable):
                handle.read(10, 0)
    fault_proxy.fault = Fault(Kind.ANSWER, "HEAD")
    with pytest.raises(StoreUnavailable):
        cache.open(key)
    fault_proxy.fault = None
    assert read_all(cache, key) == data


@pytest.mark.s3
def test_nobody_reads_any_more(proxied: Store, made: Make, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    """A download whose last reader has gone ends, its file goes, and a later open begins another."""
    data = content(3 * BLOCK)
    key = put(proxied, data)
    cache = made(proxied)
    fault_proxy.fault = Fault(Kind.HANG, "GET")
    handle = cache.open(key)
    fault_proxy.wait_for_hits(1)
    handle.close()
    handle.close()
    for thread in threading.enumerate():
        if thread.name == "cache-download":
            thread.join(60)
            assert not thread.is_alive()
    assert files(tmp_path / "cache") == {}
    fault_proxy.fault = None
    assert read_all(cache, key) == data


@pytest.mark.s3
def test_closing_the_cache_ends_downloads_and_readers(proxied: Store, made: Make, fault_proxy: FaultProxy) -> None:
    """Close ends a hanging download; a reader that waits for it gets ESHUTDOWN, and so does the next open."""
    key = put(proxied, content(3 * BLOCK))
    cache = made(proxied)
    fault_proxy.fault = Fault(Kind.HANG, "GET")
    with cache.open(key) as handle, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handle.read, 10, 0)
        fault_proxy.wait_for_hits(1)
        cache.close()
        with pytest.raises(ResultsError, match="closed") as caught:
            waiting.result(60)
        assert caught.value.errno == errno.ESHUTDOWN
    with pytest.raises(ResultsError, match="closed"):
        cache.open(key)


def test_what_was_used_longest_ago_goes_first(store: Store, made: Make, tmp_path: Path) -> None:
    """Beyond the limit the content that was opened longest ago is dropped, whenever it came."""
    keys = [put(store, content(1000, seed)) for seed in range(4)]
    cache = made(store, 3000)
    for key in (keys[0], keys[1], keys[2], keys[0], keys[3]):
        read_all(cache, key)
    assert set(files(tmp_path / "cache")) == {keys[2].path, keys[0].path, keys[3].path}
    assert cache.used_bytes == 3000


def test_what_is_open_stays(store: Store, made: Make, tmp_path: Path) -> None:
    """Open content is not dropped for the limit's sake; it goes when it is closed and another is needed more."""
    keys = [put(store, content(1000, seed)) for seed in range(3)]
    cache = made(store, 1000)
    with cache.open(keys[0]) as first:
        assert first.read(1000, 0) == content(1000, 0)
        assert read_all(cache, keys[1]) == content(1000, 1)
        assert read_all(cache, keys[2]) == content(1000, 2)
        assert keys[0].path in files(tmp_path / "cache")
        assert first.read(1000, 0) == content(1000, 0)
    assert sum(files(tmp_path / "cache").values()) <= 1000


def test_larger_than_the_limit(store: Store, made: Make, tmp_path: Path) -> None:
    """Content larger than the limit is served whole, dropped at once when closed, and drops nothing else."""
    small, large = put(store, content(500)), put(store, content(BLOCK + 1))
    cache = made(store, 1000)
    read_all(cache, small)
    assert read_all(cache, large) == content(BLOCK + 1)
    assert set(files(tmp_path / "cache")) == {small.path}
    assert cache.used_bytes == 500


def test_another_limit(store: Store, made: Make, tmp_path: Path) -> None:
    """A limit that becomes smaller counts at once: what was used longest ago goes, and what is larger than all of it."""
    cache = made(store, 2000)
    small, large = put(store, content(300, 1)), put(store, content(900, 2))
    other = put(store, content(300, 3))
    for key in (small, large, other):
        read_all(cache, key)
    with cache.open(large) as handle:
        cache.bound(500)
        assert sorted(files(tmp_path / "cache").values()) == [300, 900]
        assert handle.read(900, 0) == content(900, 2)
    assert list(files(tmp_path / "cache").values()) == [300]
    assert read_all(cache, other) == content(300, 3)


def test_a_limit_of_nothing(store: Store, made: Make, tmp_path: Path) -> None:
    """With a limit of 0 everything is served and nothing kept."""
    cache = made(store, 0)
    assert read_all(cache, put(store, b"content")) == b"content"
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock", ".unfinished"]
    assert files(tmp_path / "cache") == {}


def test_a_restart(store: Store, made: Make, tmp_path: Path) -> None:
    """Verified content survives a restart, in its order of use; what was unfinished or is strange does not count."""
    keys = [put(store, content(1000, seed)) for seed in range(3)]
    first = made(store)
    for age, key in zip((10, 30, 20), keys, strict=True):
        read_all(first, key)
        os.utime(tmp_path / "cache" / key.path, (1_700_000_000 - age, 1_700_000_000 - age))
    first.close()
    (tmp_path / "cache" / ".unfinished" / "left").write_bytes(b"half")
    (tmp_path / "cache" / "team-a" / "stranger").write_bytes(b"not ours")
    store.delete_run(keys[0].namespace, keys[0].run)
    second = made(store, 2000)
    assert second.used_bytes == 2000
    assert set(files(tmp_path / "cache")) == {keys[0].path, keys[2].path, "team-a/stranger"}
    assert read_all(second, keys[0]) == content(1000, 0)


def test_a_cached_file_that_vanished(store: Store, made: Make, tmp_path: Path) -> None:
    """A cached file that somebody removed is fetched again."""
    cache = made(store)
    key = put(store, b"content")
    read_all(cache, key)
    (tmp_path / "cache" / key.path).unlink()
    assert read_all(cache, key) == b"content"
    assert key.path in files(tmp_path / "cache")


def test_one_process_a_directory(made: Make) -> None:
    """A second cache in the same directory is refused, and says what to do; after close the directory is free."""
    store = Store.open(Settings(store="memory://one-process"))
    first = made(store)
    with pytest.raises(NotSupported, match="give each its own"):
        made(store)
    first.close()
    made(store)
