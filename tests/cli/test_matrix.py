"""Runs in which one task has several TaskRuns: each is told apart, in tables and by name."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Done, Home

pytestmark = pytest.mark.mount

FAN = """\
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {name: wide}
spec:
  pipelineSpec:
    results:
      - {name: all, value: "$(tasks.fan.results.text[*])"}
      - {name: list, value: "$(tasks.one.results.list[*])"}
    tasks:
      - name: fan
        matrix: {params: [{name: size, value: ["5000", "3"]}]}
        taskSpec:
          params: [{name: size}]
          results: [{name: text}]
          steps: [{name: s, script: "head -c $(params.size) /dev/zero | tr '\\\\0' x > $(results.text.path)"}]
      - name: one
        taskSpec:
          results: [{name: list, type: array}]
          steps: [{name: s, script: "#!/usr/bin/env python3\\nimport json\\njson.dump(['e'] * 2000, open('$(results.list.path)', 'w'))"}]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which it has run."""
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def ran(home: Home) -> Done:
    """How it ended."""
    done = home.run("run", home.file("p.yaml", FAN))
    assert done.code == 0, done.err
    return done


def test_the_table_tells_taskruns_apart(ran: Done) -> None:
    """What plain Tekton would have done is said of each TaskRun, the one that it would have failed among them."""
    lines = ran.text.splitlines()
    assert any("fan (wide-fan-0): would have failed" in line for line in lines), ran.text
    assert any("fan (wide-fan-1): the same" in line for line in lines), ran.text
    assert any(" one: would have failed" in line for line in lines), ran.text
    assert any(line.strip().startswith("fan (wide-fan-0)") and "5000 B" in line for line in lines), ran.text


def test_a_taskruns_result_is_named(home: Home, ran: Done) -> None:
    """What several TaskRuns of a task have is named by TaskRun, and these names are told."""
    for name in ("text", "fan/text"):
        home.run("get", "wide", name).complains(2, f"'{name}'", "wide-fan-0/text, wide-fan-1/text")
    assert home.run("get", "wide", "wide-fan-0/text").out == b"x" * 5000
    assert home.run("stat", "wide", "wide-fan-1/text", "--output", "json").tree["size"] == 3
    home.run("get", "wide", "none").complains(2, "wide/all", "wide-fan-1/text", "one/list")
    assert home.run("get", "wide", "wide/list").out == home.run("get", "wide", "list").out


def test_a_run_alone_is_answered_with_its_results(home: Home, ran: Done) -> None:
    """`get RUN` says how its results are named; what is neither a run nor a reference is said to be neither."""
    home.run("get", "wide").complains(2, "'wide' is a run", "wide/all", "wide-fan-0/text")
    home.run("stat", "narrow").complains(2, "'narrow' is not a reference", "nor is it a run")


def test_a_whole_array_is_read_as_the_report_names_it(home: Home, ran: Done) -> None:
    """`<reference>[*]`, which `list --output json` prints, is the array, by its path and by its name alone."""
    tree = home.run("list", "wide", "--output", "json").tree
    (value,) = next(result["value"] for result in tree["results"] if result["name"] == "list")
    assert value.endswith("[*]")
    content = home.run("get", "wide", "list").out
    for target in (value, value.rpartition("/")[2]):
        assert home.run("get", target).out == content
    assert home.run("stat", value, "--output", "json").tree["size"] == len(content)
