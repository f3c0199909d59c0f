"""The table of nodes: counts, names, and what is forgotten."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs.kernel.protocol import ROOT_ID
from resultsfs.kernel.table import Table


def test_lookups_are_counted_exactly() -> None:
    """A node stays until as many lookups are forgotten as were told."""
    table = Table()
    for _ in range(3):
        table.found(ROOT_ID, "a", 10, 1)
    table.forget(10, 2)
    assert table.path(10) == "/a"
    table.forget(10, 1)
    assert len(table) == 1
    with pytest.raises(OSError) as caught:
        table.path(10)
    assert caught.value.errno == errno.ESTALE


def test_directories_outlive_their_entries_only() -> None:
    """A directory that is forgotten before what is in it goes together with that."""
    table = Table()
    table.found(ROOT_ID, "d", 10, 1)
    table.found(10, "f", 11, 1)
    table.forget(10, 1)
    assert table.path(11) == "/d/f"
    table.forget(11, 1)
    assert len(table) == 1


def test_renamed_directories_take_their_entries_along() -> None:
    """A path is that of the present."""
    table = Table()
    table.found(ROOT_ID, "d", 10, 1)
    table.found(10, "f", 11, 1)
    table.found(ROOT_ID, "e", 12, 1)
    table.moved(ROOT_ID, "d", 12, "inner")
    assert table.path(11) == "/e/inner/f"


def test_names_of_one_file() -> None:
    """A file with two names has a path as long as one is left."""
    table = Table()
    table.found(ROOT_ID, "one", 10, 1)
    table.found(ROOT_ID, "two", 10, 1)
    table.gone(ROOT_ID, "one")
    assert table.path(10) == "/two"
    table.moved(ROOT_ID, "two", ROOT_ID, "three")
    assert table.path(10) == "/three"
    table.gone(ROOT_ID, "three")
    with pytest.raises(FileNotFoundError):
        table.path(10)


def test_a_number_used_again_is_another_file() -> None:
    """Another generation of an inode number has none of the names of the one before."""
    table = Table()
    table.found(ROOT_ID, "old", 10, 1)
    table.found(ROOT_ID, "new", 10, 2)
    assert table.path(10) == "/new"
    assert table.at(ROOT_ID, "old") is None
    table.forget(10, 1)  # the old one's
    assert table.path(10) == "/new"


def test_exchanged_names() -> None:
    """Two names that change places, one of them unknown to the kernel."""
    table = Table()
    table.found(ROOT_ID, "a", 10, 1)
    table.found(ROOT_ID, "b", 11, 1)
    table.exchanged((ROOT_ID, "a"), (ROOT_ID, "b"))
    assert (table.path(10), table.path(11)) == ("/b", "/a")
    table.exchanged((ROOT_ID, "a"), (ROOT_ID, "unknown"))
    assert table.path(11) == "/unknown"


def test_deep_trees_are_forgotten_too() -> None:
    """A chain of directories, forgotten from its root, goes with its last."""
    table, parent, depth = Table(), ROOT_ID, 5_000
    for number in range(10, 10 + depth):
        table.found(parent, "d", number, 1)
        parent = number
    for number in range(10, 10 + depth):
        table.forget(number, 1)
    assert len(table) == 1


Step = tuple[str, int, int, int]


@given(st.lists(st.tuples(st.sampled_from("lgmf"), st.integers(10, 14), st.integers(0, 4), st.integers(0, 4))))
def test_nothing_is_left_behind(steps: list[Step]) -> None:
    """After any lookups, removals and renamings, forgetting what was told leaves the root alone."""
    table, told = Table(), dict.fromkeys(range(10, 15), 0)
    for kind, node, name, other in steps:
        if kind == "l":
            table.found(ROOT_ID, str(name), node, 1)
            told[node] += 1
        elif kind == "g":
            table.gone(ROOT_ID, str(name))
        elif kind == "m":
            table.moved(ROOT_ID, str(name), ROOT_ID, str(other))
        elif told[node]:
            told[node] -= 1
            table.forget(node, 1)
    for node, count in told.items():
        table.forget(node, count)
    assert len(table) == 1


def test_what_a_predecessor_told_is_forgotten_and_found_again(tmp_path: Path) -> None:
    """Nodes that another server told the kernel are found by number, with all names; each goes with its first FORGET,
    whatever that counts, and is found again if the kernel names it once more."""
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").touch()
    os.link(tmp_path / "d" / "e" / "f", tmp_path / "g")
    node = (tmp_path / "g").stat().st_ino
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        table = Table()
        table.inherit(root, {1 << 60: "a-reference"})
        assert {table.path(node), *(table.child(*name) for name in table.get(node).names)} == {"/d/e/f", "/g"}
        assert table.path(1 << 60) == "/.ref/a-reference"
        before = len(table)
        for count in (1, 7):
            table.forget(node, count)
            assert len(table) < before
            assert table.path(node) in ("/d/e/f", "/g")
        table.moved(ROOT_ID, "d", ROOT_ID, "renamed")
        table.gone(ROOT_ID, "g")
        table.forget(node, 1)
        assert table.path(node) == "/renamed/e/f"
        with pytest.raises(FileNotFoundError):
            table.path(node + (1 << 40))
    finally:
        os.close(root)


def test_what_was_not_asked_for_moves_along(tmp_path: Path) -> None:
    """Names that only a predecessor was asked for are kept in step: renamed, removed, exchanged."""
    for name in "abcd":
        (tmp_path / name).touch()
    nodes = {name: (tmp_path / name).stat().st_ino for name in "abcd"}
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        table = Table()
        table.inherit(root, {})
        assert table.path(nodes["d"]) == "/d"  # from here on the others are known to be there
        table.moved(ROOT_ID, "a", ROOT_ID, "z")
        table.exchanged((ROOT_ID, "b"), (ROOT_ID, "c"))
        table.gone(ROOT_ID, "z")
        assert (table.path(nodes["b"]), table.path(nodes["c"])) == ("/c", "/b")
        with pytest.raises(FileNotFoundError):
            table.path(nodes["a"])
    finally:
        os.close(root)
