"""`resultsfs list`, `get` and `stat`: results of past runs, verified, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from resultsfs.reference import Reference
from tests.cli.conftest import COMMAND, DEADLINE, LARGE, LIST, Home, Ran

pytestmark = pytest.mark.mount

BYTES = b"a\xffb"


@pytest.fixture
def damaged(shared: Ran) -> Iterator[Ran]:
    """The shared run while its large content has a wrong byte in the store."""
    content = shared.stored.read_bytes()
    mode = shared.stored.stat().st_mode
    shared.stored.chmod(0o600)
    shared.stored.write_bytes(content[:-1] + b"!")
    yield shared
    shared.stored.write_bytes(content)
    shared.stored.chmod(mode)


def test_runs_are_listed(shared: Ran) -> None:
    """`list` knows the run, as a table and as JSON."""
    (run,) = shared.home.run("list", "--output", "json").tree
    assert (run["name"], run["kind"], run["status"]) == (shared.name, "PipelineRun", "Succeeded")
    assert run["store"] == f"file://{shared.home.store}"
    table = shared.home.run("list").text
    assert shared.name in table and "Succeeded" in table


def test_a_runs_results_are_listed(shared: Ran) -> None:
    """`list RUN` gives what `run` gave, by name, UID and kind/name."""
    uid = shared.home.run("list", "--output", "json").tree[0]["uid"]
    for name in (shared.name, uid, f"pipelinerun/{shared.name}"):
        assert shared.home.run("list", name, "--output", "json").tree == shared.run
    table = shared.home.run("list", shared.name).text
    assert "skeleton (1 spilled)" in table and str(shared.reference) in table


def test_a_broken_record_hides_no_other(shared: Ran) -> None:
    """A record that cannot be read is named on stderr, and the others are listed."""
    broken = shared.home.state / "runs" / "broken.json"
    broken.write_text("{}")
    try:
        done = shared.home.run("list", "--output", "json")
    finally:
        broken.unlink()
    assert [run["name"] for run in done.tree] == [shared.name]
    assert "broken.json" in done.err


def test_no_runs_yet(home: Home) -> None:
    """Without any run the list is empty, and stderr says how to make one."""
    assert home.run("list", "--output", "json").tree == []
    done = home.run("list")
    assert (done.code, done.out) == (0, b"") and "resultsfs run" in done.err


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ("text", LARGE.encode()),
        ("large", LARGE.encode()),
        ("make/large", LARGE.encode()),
        ("make/small", b"yes"),
        ("other/small", b"no"),
        ("list", json.dumps(LIST, separators=(",", ":")).encode()),
    ],
)
def test_results_are_got(shared: Ran, result: str, content: bytes) -> None:
    """Inline and spilled results, elements of skeletons among them, come whole, with nothing added."""
    done = shared.home.run("get", shared.name, result)
    assert (done.code, done.out, done.err) == (0, content, "")


def test_a_reference_is_got(shared: Ran) -> None:
    """A reference is read as a path and as its name alone."""
    for target in (str(shared.reference), shared.reference.name):
        assert shared.home.run("get", target).out == LARGE.encode()


def test_a_reference_that_begins_like_an_option_is_got(shared: Ran) -> None:
    """One name in 64 begins with `-`: it is a reference all the same, for `get` and `stat`."""
    digest = hashlib.sha256(b"content").hexdigest()
    reference = Reference.of(UUID(int=0xFB << 120), digest)
    assert reference.name.startswith("-")
    place = shared.home.store / "default" / str(reference.run) / digest
    place.parent.mkdir()
    place.write_bytes(b"content")
    for target in (str(reference), reference.name):
        assert shared.home.run("get", target).out == b"content"
        assert shared.home.run("stat", target, "--output", "json").tree["sha256"] == digest


def test_what_status_could_not_hold_is_told(shared: Ran) -> None:
    """Bytes that are not UTF-8 reach status changed, as in Tekton: the command says so and gives the digest."""
    done = shared.home.run("get", shared.name, "bytes")
    assert done.out == "a\ufffdb".encode()
    assert "not byte for byte" in done.err and hashlib.sha256(BYTES).hexdigest() in done.err


def test_output_goes_to_a_file(shared: Ran, tmp_path: Path) -> None:
    """`--output FILE` writes the content with the mode of any new file, replacing what was there."""
    path = tmp_path / "out"
    path.write_text("old")
    done = shared.home.run("get", shared.name, "large", "--output", path)
    assert (done.code, done.out) == (0, b"")
    assert path.read_bytes() == LARGE.encode()
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "plain"]


def test_wrong_content_never_becomes_a_file(damaged: Ran, tmp_path: Path) -> None:
    """Content that is not the reference's is refused; the old file stays, and no part of a new one is left."""
    path = tmp_path / "out"
    path.write_text("old")
    done = damaged.home.run("get", str(damaged.reference), "-o", path)
    done.complains(1, damaged.reference.sha256)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]


def test_wrong_content_never_ends_like_right_content(damaged: Ran) -> None:
    """On stdout, wrong content ends with an error and without its last block."""
    done = damaged.home.run("get", str(damaged.reference))
    assert done.code == 1 and len(done.out) < len(LARGE)


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        ("$.a[0]", ["1"]),
        ("$.a[1]", ["two"]),
        ("$.a[*]", ["1", "two", '{"b": null}']),
        ("$..b", ["null"]),
    ],
)
def test_jsonpath(shared: Ran, query: str, lines: list[str]) -> None:
    """Matches come one a line, strings as they are, all else as JSON."""
    done = shared.home.run("get", shared.name, "json", "--jsonpath", query)
    assert (done.code, done.text.splitlines()) == (0, lines), done.err


@pytest.mark.parametrize(
    ("result", "query", "code", "words"),
    [
        ("json", "$.none", 1, ["nothing", "$.none"]),
        ("json", "$[", 2, ["--jsonpath", "$["]),
        ("large", "$.a", 1, ["not JSON"]),
    ],
)
def test_bad_jsonpath(shared: Ran, result: str, query: str, code: int, words: list[str]) -> None:
    """A query that is wrong, matches nothing or meets no JSON is told apart and named."""
    shared.home.run("get", shared.name, result, "--jsonpath", query).complains(code, *words)


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["get", "nonsense"], 2, ["'nonsense'", "not a reference"]),
        (["get", "none", "large"], 2, ["'none'", "demo-run-"]),
        (["stat", "RUN", "none"], 2, ["'none'", "make/large", "other/small"]),
        (["get", "RUN", "small"], 2, ["several", "make/small", "other/small"]),
        (["get", "RUN", "large", "-n", "elsewhere"], 2, ["'elsewhere'", "'default'"]),
        (["get", "RUN", "large", "-o", "/"], 2, ["/", "directory"]),
        (["get", "RUN", "large", "-o", "none/out"], 1, ["none/out", "No such file"]),
        (["get", "REFERENCE", "-n", "Bad!"], 2, ["'Bad!'", "DNS label"]),
        (["list", "none"], 2, ["'none'", "demo-run-"]),
        (["get"], 2, ["Missing argument"]),
    ],
)
def test_bad_names_are_named(shared: Ran, words: list[str], code: int, named: list[str]) -> None:
    """Each error names what was asked for, and what there is instead."""
    replaced = {"RUN": shared.name, "REFERENCE": str(shared.reference)}
    shared.home.run(*(replaced.get(word, word) for word in words)).complains(code, *named)


@pytest.mark.parametrize("command", ["get", "stat"])
def test_a_reference_opens_nothing_in_another_namespace(shared: Ran, command: str) -> None:
    """The namespace is whose content it is: with another one, there is no such content."""
    done = shared.home.run(command, str(shared.reference), "--namespace", "elsewhere")
    done.complains(1, f"elsewhere/{shared.reference.run}", "no such content")


def test_stat_tells_all(shared: Ran) -> None:
    """Size, SHA-256, type, whether it was spilled, and where it lies."""
    place = f"file://{shared.stored}"
    facts = shared.home.run("stat", shared.name, "large", "--output", "json").tree
    assert facts == {
        "name": f"{shared.name} large",
        "namespace": "default",
        "type": "string",
        "size": len(LARGE),
        "sha256": shared.reference.sha256,
        "spilled": True,
        "value": str(shared.reference),
        "locations": [place],
    }
    by_reference = shared.home.run("stat", str(shared.reference), "--output", "json").tree
    assert by_reference == facts | {"name": str(shared.reference), "type": None}
    table = shared.home.run("stat", shared.name, "large").text
    assert place in table and "50000 bytes" in table
    inline = shared.home.run("stat", shared.name, "make/small", "--output", "json").tree
    assert (inline["spilled"], inline["locations"], inline["size"]) == (False, [], 3)


def test_stat_tells_what_is_gone(home: Home) -> None:
    """Content that was deleted from the store is an error, though the run is known."""
    ran = Ran(home)
    ran.stored.unlink()
    home.run("stat", ran.name, "large").complains(1, ran.reference.sha256, "no such content")
    home.run("get", ran.name, "large").complains(1, ran.reference.sha256, "no such content")


def test_a_bar_only_for_a_terminal(shared: Ran, tmp_path: Path) -> None:
    """Where stderr is a terminal, progress is shown there, and the content is untouched."""
    terminal, other = pty.openpty()
    try:
        environment = shared.home.environment | {"TERM": "xterm", "COLUMNS": "100"}
        command = [*COMMAND, "get", str(shared.reference), "-o", str(tmp_path / "out")]
        done = subprocess.run(command, stderr=other, env=environment, timeout=DEADLINE, check=False)
        shown = os.read(terminal, 1 << 16)
    finally:
        os.close(terminal)
        os.close(other)
    assert done.returncode == 0, shown
    assert b"\x1b[" in shown and b"kB" in shown.replace(b"KiB", b"kB")
    assert (tmp_path / "out").read_bytes() == LARGE.encode()


def test_a_reader_that_has_had_enough(shared: Ran) -> None:
    """Closing the pipe early ends the command quietly."""
    process = shared.home.start("get", shared.name, "large", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(DEADLINE) != 0
    assert b"Traceback" not in err
