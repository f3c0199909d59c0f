"""What every backend of the store must do: one suite, run over memory, a directory and an S3 server."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from resultsfs.errors import ContentMismatch, ContentMissing, ContentTooLarge, InvalidKey, UploadAbandoned
from resultsfs.reference import Reference
from resultsfs.settings import Settings
from resultsfs.store import BLOCK, Key, Manifest, Store
from resultsfs.store_names import OWNER, gone_path
from tests.support.stores import chunks_of, content, key_of, put

PART = 8 << 20
SIZES = [0, 1, 4096, BLOCK, BLOCK + 1, PART, PART + 1, 3 * PART, 3 * PART + 17]


@pytest.mark.parametrize("size", SIZES)
def test_content_comes_back_as_it_was_put(store: Store, size: int) -> None:
    """Content of every size around the block and part limits comes back byte for byte, with its size."""
    data = content(size)
    key = put(store, data)
    assert store.size(key) == size
    assert b"".join(store.verified(key)) == data
    assert b"".join(store.stream(key)) == data
    assert store.fetch(key, size) == data


@pytest.mark.parametrize("offset", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 5 * BLOCK, 5 * BLOCK + 9])
def test_stream_from_an_offset(store: Store, offset: int) -> None:
    """A stream from an offset is the rest of the content; from beyond its end it is empty."""
    data = content(5 * BLOCK)
    key = put(store, data)
    assert b"".join(store.stream(key, offset)) == data[offset:]


def test_a_stream_can_be_left_early(store: Store) -> None:
    """Closing a stream after its first block leaves no thread behind."""
    key = put(store, content(6 * BLOCK))
    stream = store.stream(key)
    assert len(next(stream)) == BLOCK
    stream.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("store-download")]


def test_what_is_missing_is_an_error(store: Store) -> None:
    """Size, stream and fetch of content that is not there raise ContentMissing."""
    key = key_of(b"never put")
    for ask in (store.size, lambda key: list(store.stream(key)), lambda key: store.fetch(key, 100)):
        with pytest.raises(ContentMissing, match=key.sha256):
            ask(key)


def test_fetch_refuses_more_than_its_limit(store: Store) -> None:
    """Content larger than the limit is refused by size, before it is read."""
    key = put(store, b"x" * 100)
    with pytest.raises(ContentTooLarge, match="100 bytes, of which at most 99"):
        store.fetch(key, 99)


@pytest.mark.parametrize("size", [100, 3 * PART])
def test_other_bytes_are_not_stored(store: Store, size: int) -> None:
    """Bytes that are not the key's, too few and too many are abandoned; nothing is stored."""
    data = content(size)
    key = key_of(data)
    for wrong in (content(size, seed=1), data[:-1], data + b"x"):
        with pytest.raises(UploadAbandoned, match=key.sha256):
            store.put(key, chunks_of(wrong), size)
    with pytest.raises(ContentMissing):
        store.size(key)
    assert list(store.contents(key.namespace, key.run)) == []
    assert store.abort_stale(0) == 0


@pytest.mark.parametrize("size", [100, 3 * PART])
def test_an_error_of_the_source_passes(store: Store, size: int) -> None:
    """An error while the content is read reaches the caller unchanged; nothing is stored."""
    key = key_of(content(size))

    def broken() -> Iterator[bytes]:
        yield content(size)[:50]
        raise ZeroDivisionError("the disk is broken")

    with pytest.raises(ZeroDivisionError, match="the disk is broken"):
        store.put(key, broken, size)
    assert list(store.contents(key.namespace, key.run)) == []
    assert store.abort_stale(0) == 0


@pytest.mark.parametrize("size", [100, 3 * PART])
def test_stop_ends_an_upload(store: Store, size: int) -> None:
    """An upload whose caller loses interest is abandoned, and nothing of it stays."""
    data = content(size)
    key = key_of(data)
    with pytest.raises(UploadAbandoned, match="given up"):
        store.put(key, chunks_of(data), size, stop=lambda: True)
    assert list(store.contents(key.namespace, key.run)) == []
    assert store.abort_stale(0) == 0


@pytest.mark.parametrize("size", [0, 100, 3 * PART + 5])
def test_moved_counts_every_byte_once(store: Store, size: int) -> None:
    """Progress adds up to the size."""
    data = content(size)
    moved: list[int] = []
    store.put(key_of(data), chunks_of(data), size, moved=moved.append)
    assert sum(moved) == size


def test_what_is_there_is_not_read_again(store: Store) -> None:
    """A second put of large content asks, counts it as moved, and does not read it."""
    data = content(2 << 20)
    key = put(store, data)
    moved: list[int] = []

    def unread() -> Iterator[bytes]:
        raise AssertionError("the content was read again")

    store.put(key, unread, len(data), moved=moved.append)
    assert sum(moved) == len(data)


def test_many_threads_share_a_store(store: Store) -> None:
    """Uploads and downloads from eight threads do not disturb each other."""
    run = uuid.uuid4()

    def there_and_back(number: int) -> bool:
        data = content(PART + number, seed=number)
        return store.fetch(put(store, data, key_of(data, run=run)), 2 * PART) == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(8)))
    assert len(list(store.contents("team-a", run))) == 8


def test_the_same_content_put_at_once(store: Store) -> None:
    """Several threads that put the same content at once all succeed, and it is there once."""
    data = content(PART + 1)
    key = key_of(data)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(put, store, data, key) for _ in range(4)]:
            future.result()
    assert list(store.contents(key.namespace, key.run)) == [(key.sha256, len(data))]
    assert store.fetch(key, len(data)) == data


def test_listing_and_deleting_runs(store: Store) -> None:
    """Listings are fresh after every change, and deleting one run leaves the others."""
    first, second = uuid.uuid4(), uuid.uuid4()
    assert list(store.runs()) == []
    a, b = put(store, b"a", key_of(b"a", run=first)), put(store, b"bb", key_of(b"bb", run=first))
    put(store, b"a", key_of(b"a", "team-b", second))
    assert sorted(store.runs()) == sorted([("team-a", first), ("team-b", second)])
    assert sorted(store.contents("team-a", first)) == sorted([(a.sha256, 1), (b.sha256, 2)])
    store.delete_run("team-a", first)
    store.delete_run("team-a", first)
    assert list(store.runs()) == [("team-b", second)]
    assert list(store.contents("team-a", first)) == []
    with pytest.raises(ContentMissing):
        store.size(a)


def test_manifests(store: Store) -> None:
    """Manifests are listed with TaskRun and pod, replaced by the same pod, and are no content of the run."""
    run, pod, other = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    store.put_manifest("team-a", run, "build.v1", pod, b"{}")
    store.put_manifest("team-a", run, "build.v1", pod, b'{"results": []}')
    store.put_manifest("team-a", run, "build.v1", other, b"[]")
    found = sorted(store.manifests("team-a", run), key=lambda manifest: manifest.data)
    assert found == [Manifest("build.v1", other, b"[]"), Manifest("build.v1", pod, b'{"results": []}')]
    assert list(store.contents("team-a", run)) == []
    assert list(store.runs()) == [("team-a", run)]
    assert list(store.manifests("team-b", run)) == []


def test_no_other_namespace_and_no_other_run(store: Store) -> None:
    """Content of one namespace and run is missing in every other one, though digest and run are known."""
    data = b"secret of team-a"
    key = put(store, data)
    reference = Reference.of(key.run, key.sha256)
    assert store.fetch(Key.of("team-a", reference), 100) == data
    for stranger in (Key.of("team-b", reference), Key.of("team", reference), Key("team-a", uuid.uuid4(), key.sha256)):
        with pytest.raises(ContentMissing):
            store.fetch(stranger, 100)


@pytest.mark.parametrize(
    "namespace", ["", "..", ".", "a/b", "../a", "A", "a.b", "-a", "a-", "a" * 64, "a\n", "a\0", "ä"]
)
def test_path_tricks_in_names_are_refused(store: Store, namespace: str) -> None:
    """A namespace or TaskRun that could lead elsewhere never reaches the backend."""
    run, pod = uuid.uuid4(), uuid.uuid4()
    with pytest.raises(InvalidKey, match="namespace"):
        Key(namespace, run, "0" * 64)
    for use in (store.delete_run, lambda *a: list(store.contents(*a)), lambda *a: list(store.manifests(*a))):
        with pytest.raises(InvalidKey, match="namespace"):
            use(namespace, run)
    if namespace not in ("a.b", "a" * 64):  # a subdomain may have dots, but no label of 64
        with pytest.raises(InvalidKey, match="TaskRun"):
            store.put_manifest("team-a", run, namespace, pod, b"{}")


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "A" * 64, "../" + "0" * 61, "0" * 63 + "\n"])
def test_digests_are_checked(sha256: str) -> None:
    """A key takes only 64 lower-case hexadecimal digits."""
    with pytest.raises(InvalidKey, match="SHA-256"):
        Key("team-a", uuid.uuid4(), sha256)


def test_strangers_names_are_skipped(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Names in the store that are not ours are left out of listings and told in the log."""
    key = put(store, b"ours")
    run = f"{key.namespace}/{key.run}"
    for path in ("README", "UPPER/x", f"{key.namespace}/not-a-run/x", f"{run}/stranger", f"{run}/runs/tr/x.txt"):
        store.backend.put(path, b"stranger", lambda: False)
    assert list(store.runs()) == [(key.namespace, key.run)]
    assert list(store.contents(key.namespace, key.run)) == [(key.sha256, 4)]
    assert list(store.manifests(key.namespace, key.run)) == []
    for name in ("README", "UPPER", "not-a-run", "stranger", "x.txt"):
        assert repr(name) in caplog.text


@pytest.mark.parametrize("size", [10, 3 * BLOCK])
def test_wrong_content_never_ends(store: Store, size: int) -> None:
    """Content that is not its key's gives ContentMismatch in place of the last block."""
    data, wrong = content(size), content(size, seed=1)
    key = key_of(data)
    store.backend.put(key.path, wrong, lambda: False)
    came = []
    with pytest.raises(ContentMismatch, match=hashlib.sha256(wrong).hexdigest()):
        for block in store.verified(key):
            came.append(block)
    assert b"".join(came) == wrong[: max(0, size - BLOCK)]
    with pytest.raises(ContentMismatch):
        store.fetch(key, size)


def test_content_of_another_size_is_sent_again(store: Store) -> None:
    """What is there under the key with another size (somebody cut it) is replaced."""
    data = content(2 << 20)
    key = key_of(data)
    store.backend.put(key.path, data[:100], lambda: False)
    put(store, data, key)
    assert store.fetch(key, len(data)) == data


def test_probe_leaves_nothing(store: Store) -> None:
    """The probe tells times and the store's clock, and leaves nothing behind."""
    probe = store.probe()
    assert probe.write_seconds >= 0
    assert probe.read_seconds >= 0
    assert probe.clock_skew is not None
    assert abs(probe.clock_skew) < 60
    assert list(store.runs()) == []
    assert [entry for entry in store.backend.list(".probe") if entry.size is not None] == []


def test_location_begins_with_the_url(store: Store, store_settings: Settings) -> None:
    """The location is the store's URL and the key's path."""
    key = key_of(b"x")
    assert store.location(key) == f"{store_settings.store}/{key.namespace}/{key.run}/{key.sha256}"


def test_a_closed_store_opens_again(store: Store) -> None:
    """A request after close makes new connections."""
    key = put(store, b"x")
    store.close()
    store.close()
    assert store.fetch(key, 1) == b"x"


def test_notes_are_small_files_of_our_own(store: Store) -> None:
    """A note is read back, replaced, gone with its run, and no listing of contents or runs is troubled by it."""
    key = put(store, content(10))
    path = gone_path(key.namespace, key.run)
    assert store.note(path) is None
    store.put_note(path, b"one")
    store.put_note(path, b"two")
    store.put_note(OWNER, b"me")
    assert (store.note(path), store.note(OWNER)) == (b"two", b"me")
    assert list(store.runs()) == [(key.namespace, key.run)]
    assert [sha for sha, _ in store.contents(key.namespace, key.run)] == [key.sha256]
    store.delete_run(key.namespace, key.run)
    assert store.note(path) is None
    store.delete_note(OWNER)
    store.delete_note(OWNER)
    assert store.note(OWNER) is None


def test_a_presigned_url_reads_the_content_or_there_is_none(store: Store) -> None:
    """S3 gives a URL that needs no credentials; directories and memory give none."""
    data = content(1000)
    url = store.presigned(put(store, data), 60)
    if not store.url.startswith("s3:"):
        assert url is None
        return
    assert url is not None
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read() == data
