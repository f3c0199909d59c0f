"""docs/semantics.md and docs/transports.md name the tests that prove them, and the modules that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "semantics.md"
TRANSPORTS = ROOT / "docs" / "transports.md"
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", [DOCUMENT, TRANSPORTS], ids=lambda path: path.stem)
def test_every_test_that_the_document_names_exists(document: Path) -> None:
    """Each `tests/….py::test_…` of a page is a test function of that file."""
    named = _NAMED.findall(document.read_text(encoding="utf-8"))
    assert named
    missing = [f"{file}::{name}" for file, name in named if name not in _functions(ROOT / file)]
    assert missing == []


def test_the_table_of_modules_is_complete() -> None:
    """The page about transports says of each module of `resultsfs/kernel` what it is, and of no other."""
    _, _, after = TRANSPORTS.read_text(encoding="utf-8").partition("| module | what it is |\n")
    table = after.partition("\n\n")[0]
    named = [name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    modules = {path.stem for path in (ROOT / "resultsfs" / "kernel").glob("[!_]*.py")}
    assert sorted(named) == sorted(modules)


def test_the_document_names_every_filesystem_test() -> None:
    """Each test of file operations (tests/filesystem) proves something that docs/semantics.md says."""
    named = {name for _file, name in _NAMED.findall(DOCUMENT.read_text(encoding="utf-8"))}
    files = (ROOT / "tests" / "filesystem").glob("test_*.py")
    written = {name for file in files for name in _functions(file)}
    unsaid = {name for name in written if name.startswith("test_")} - named - _UNSAID
    assert unsaid == set()


_UNSAID = {"test_mount_answers_as_its_disk_does_for_long", "test_collectors_of_another_volume_are_nobody_here"}
"""Variants of tests that are named."""
