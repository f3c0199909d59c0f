"""Collectors on the mount: two views of one file, chosen by who asks."""

from __future__ import annotations

import hashlib
import os

import pytest

from resultsfs.reference import Reference
from resultsfs.settings import Settings
from resultsfs.store import Key, Store
from tests.support.mount import Mount, mounted

pytestmark = pytest.mark.mount
BIG = os.urandom(200_000)


def stored(mount: Mount, reference: bytes) -> bytes:
    """The content of a reference, by the store alone."""
    store = Store.open(Settings(store=f"file://{mount.directory}/store"))
    return store.fetch(Key.of(mount.record.namespace, Reference.parse(reference.decode())), 1 << 30)


def test_collector_reads_the_reference_and_everybody_else_the_content(mount: Mount) -> None:
    """Two processes read one file: 87 bytes for the collector, 200000 for a step, while the size is the file's."""
    (mount.path / "report").write_bytes(BIG)
    read = mount.collect("report")
    assert read.returncode == 0, read.stderr
    assert stored(mount, read.stdout) == BIG
    assert (mount.path / "report").read_bytes() == BIG
    assert (mount.path / "report").stat().st_size == len(BIG)


def test_content_by_reference_on_the_mount(mount: Mount) -> None:
    """What the collector was given is a path: below `.ref` anybody on the volume reads the content, and cannot write."""
    (mount.path / "report").write_bytes(BIG)
    name = Reference.parse(mount.collect("report").stdout.decode()).name
    path = mount.path / ".ref" / name
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(BIG).digest()
    assert path.stat().st_size == len(BIG)
    assert os.stat(path).st_mode & 0o777 == 0o444
    with pytest.raises(PermissionError if os.geteuid() else OSError):
        path.write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        (mount.path / ".ref" / ("A" * 22 + "." + "A" * 43)).read_bytes()


def test_second_collector_finds_only_what_is_new(mount: Mount) -> None:
    """A later collector process gets ENOENT for what the first one read."""
    (mount.path / "report").write_bytes(b"value")
    assert mount.collect("report").stdout == b"value"
    again = mount.collect("report")
    assert again.returncode != 0
    assert b"No such file" in again.stderr
    assert (mount.path / "report").read_bytes() == b"value"


def test_other_files_of_a_collector_are_plain(mount: Mount) -> None:
    """Only declared results have a second view."""
    (mount.path / "other").write_bytes(BIG)
    assert mount.collect("other").stdout == BIG


def test_directory_at_a_result_s_name(transport: str) -> None:
    """The entrypoint fails visibly, as without us; sidecarlogresults, which any error ends, finds nothing."""
    with mounted(transport=transport) as mount:
        (mount.path / "report").mkdir()
        assert b"Is a directory" in mount.collect("report").stderr
    with mounted(transport=transport, mode="sidecar-logs") as mount:
        (mount.path / "report").mkdir()
        assert b"No such file" in mount.collect("report").stderr
        assert mount.reasons() == {"ResultNotAFile"}
        assert (mount.path / "report").is_dir()


def test_collector_waits_for_nothing_else(transport: str) -> None:
    """While a collector waits for a store that does not answer, steps of the same mount go on."""
    settings = {"store": "s3://bucket", "s3-endpoint": "http://127.0.0.1:9", "spill-deadline": "1h"}
    with mounted(transport=transport, settings={**settings, "store-timeout": "1s"}) as mount:
        (mount.path / "report").write_bytes(BIG)
        waiting = mount.collector("print(open('report', 'rb').read())")
        try:
            for at in range(50):
                (mount.path / f"file-{at}").write_bytes(b"x")
            assert len(os.listdir(mount.path)) == 51
            assert waiting.poll() is None
        finally:
            waiting.kill()
            assert waiting.wait(100) != 0
            for pipe in (waiting.stdin, waiting.stdout, waiting.stderr):
                assert pipe is not None
                pipe.close()
