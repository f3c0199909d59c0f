"""Results that lead to one file: the kernel follows links, so a collector asks for the file and never for the link."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from resultsfs.record import Keep
from resultsfs.reference import Reference
from tests.support.mount import Mount, mounted

pytestmark = pytest.mark.mount

Link = Callable[[Path, str, str], None]


def symbolic(directory: Path, name: str, target: str) -> None:
    """A link by a relative text."""
    (directory / name).symlink_to(target)


def hard(directory: Path, name: str, target: str) -> None:
    """A second name."""
    os.link(directory / target, directory / name)


links = pytest.mark.parametrize("link", [symbolic, hard])


def read(mount: Mount, *names: str) -> dict[str, bytes]:
    """What one collector process reads; names for which it finds no file are left out."""
    collector = mount.collector(
        "import sys\nfor name in sys.argv[1:]:\n try: print(name, open(name, 'rb').read().hex())\n"
        " except FileNotFoundError: pass",
        *names,
    )
    out, err = collector.communicate(timeout=100)
    assert collector.returncode == 0, err
    return {name: bytes.fromhex(text) for name, _, text in (line.partition(" ") for line in out.decode().splitlines())}


@links
def test_link_to_a_published_result_is_collected(transport: str, link: Link) -> None:
    """A later step links to what an earlier one has published: the new name needs it, and then nothing is new."""
    names = ("version", "latest")
    with mounted(transport=transport, results=names) as mount:
        (mount.path / "version").write_bytes(b"1.2.3")
        assert read(mount, *names) == {"version": b"1.2.3"}
        link(mount.path, "latest", "version")
        assert read(mount, *names)["latest"] == b"1.2.3"
        assert read(mount, *names) == {}
        (mount.path / "version").write_bytes(b"1.2.4")
        assert read(mount, *names) == dict.fromkeys(names, b"1.2.4")


@links
def test_linked_result_that_is_kept_is_no_reference(transport: str, link: Link) -> None:
    """What `when` uses stays inline, whatever else its file is called."""
    names = ("y", "x")
    threshold = {"result-size-threshold": 90}
    with mounted(transport=transport, results=names, settings=threshold, kept={"x": Keep.INLINE}) as mount:
        (mount.path / "y").write_bytes(b"7" * 300)
        link(mount.path, "x", "y")
        assert read(mount, *names) == dict.fromkeys(names, b"7" * 300)


@links
def test_large_linked_results_are_spilled_once(transport: str, link: Link) -> None:
    """All names of a large file have one reference, and the content's own size."""
    names = ("x", "y", "z")
    with mounted(transport=transport, results=names) as mount:
        (mount.path / "y").write_bytes(b"7" * 9000)
        link(mount.path, "x", "y")
        link(mount.path, "z", "x")
        found = read(mount, *names)
        assert set(found) == set(names)
        (reference,) = set(found.values())
        path = mount.path / ".ref" / Reference.parse(reference.decode()).name
        assert path.read_bytes() == b"7" * 9000
        assert read(mount, *names) == {}


def test_link_to_a_file_of_several_names(transport: str) -> None:
    """The file is no result itself, and has another name, too: what is asked for is known by either, and is not new
    for a second collector."""
    with mounted(transport=transport, results=("a",)) as mount:
        (mount.path / "data").mkdir()
        (mount.path / "data/first").write_bytes(b"7" * 9000)
        os.link(mount.path / "data/first", mount.path / "data/second")
        (mount.path / "a").symlink_to("data/second")
        found = read(mount, "a")
        assert Reference.match(found["a"].decode()) is not None
        assert read(mount, "a") == {}
