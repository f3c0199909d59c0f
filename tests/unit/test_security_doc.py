"""docs/security.md names the tests that prove it, and says what the manifests grant."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from resultsfs.server.capabilities import NEEDED

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _tests(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_document_names_exists() -> None:
    """Each `tests/….py::test_…` in docs/security.md is a test function of that file."""
    named = _NAMED.findall(TEXT)
    assert named
    missing = [f"{file}::{name}" for file, name in named if name not in _tests(ROOT / file)]
    assert missing == []


def test_every_attack_names_what_proves_its_defence() -> None:
    """No row of the table of attacks is without a test, and no test of attackers is without its row."""
    table = TEXT.split("## What a hostile pod can try")[1].split("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ")][1:]
    assert [row for row in rows if not _NAMED.search(row)] == []
    attackers = {name for name in _tests(ROOT / "tests" / "filesystem" / "test_attackers.py") if name[:5] == "test_"}
    assert attackers - {name for _file, name in _NAMED.findall(table)} == _HARMLESS


_HARMLESS = {"test_fifo_goes_on_working_for_steps"}
"""Says what still works."""


def test_the_mounters_rights_are_listed() -> None:
    """The table has the capabilities that the server keeps, in their order."""
    row = next(line for line in TEXT.splitlines() if line.startswith("| `mounter` |"))
    assert f"| {', '.join(NEEDED)} |" in row
