"""`resultsfs delete`: runs of this machine go with what they stored, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import PIPELINE, Home

pytestmark = pytest.mark.mount


SAME = """\
---
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {name: same}
spec: {pipelineRef: {name: demo}}
"""


def ran(home: Home, pipeline: str = PIPELINE) -> dict[str, Any]:
    """The record of one more run."""
    known = {run["uid"] for run in home.run("list", "--output", "json").tree}
    done = home.run("run", home.file("p.yaml", pipeline))
    assert done.code == 0, done.err
    (run,) = (run for run in home.run("list", "--output", "json").tree if run["uid"] not in known)
    return dict(run)


def listed(home: Home) -> list[str]:
    """The UIDs of the runs that are listed."""
    return [run["uid"] for run in home.run("list", "--output", "json").tree]


def stored(home: Home, run: dict[str, Any]) -> list[Path]:
    """The files in the store that are a run's."""
    return [path for path in (home.store / "default" / run["uid"]).rglob("*") if path.is_file()]


def test_a_run_goes_with_its_content(home: Home) -> None:
    """The run that is named goes from list and store, and says with how much; others stay as they are. What would go
    is told first."""
    first, second = ran(home), ran(home)
    assert first["name"] != second["name"]
    kept = stored(home, second)
    size = sum(path.stat().st_size for path in stored(home, first) if len(path.name) == 64)  # SHA-256
    told = home.run("delete", first["name"], "--dry-run", "--output", "json").tree
    assert told == {"dryRun": True, "runs": [{"name": first["name"], "uid": first["uid"], "bytes": size}]}
    assert size > 50_000 and listed(home) == [first["uid"], second["uid"]] and stored(home, first)
    done = home.run("delete", first["name"])
    assert done.code == 0 and done.text.startswith(f"deleted {first['name']} ({first['uid']}) and "), done.err
    assert listed(home) == [second["uid"]]
    assert stored(home, first) == [] and stored(home, second) == kept != []
    assert home.run("get", second["name"], "text").code == 0
    home.run("get", first["name"], "text").complains(2, first["name"], second["name"])


def test_one_name_of_several_runs(home: Home) -> None:
    """Where runs have one name nothing goes, and the UIDs are told, by one of which one goes; UIDs and names that are
    given twice are one run."""
    first, second = ran(home, PIPELINE + SAME), ran(home, PIPELINE + SAME)
    home.run("delete", "same").complains(2, "2 runs", first["uid"], second["uid"])
    assert listed(home) == [first["uid"], second["uid"]]
    assert home.run("delete", first["uid"], first["uid"]).code == 0
    assert listed(home) == [second["uid"]]


def test_all_or_none(home: Home) -> None:
    """A name that is unknown is an error that says what there is, and no run goes; so are no names, and an age beside
    names, or one that is none."""
    run = ran(home)
    home.run("delete", run["name"], "nobody").complains(2, "'nobody'", run["name"])
    home.run("delete").complains(2, "RUN", "--older-than")
    home.run("delete", run["name"], "--older-than", "1h").complains(2, "--older-than")
    home.run("delete", "--older-than", "long").complains(2, "--older-than", "'long'")
    assert listed(home) == [run["uid"]] and stored(home, run)


def test_by_age(home: Home) -> None:
    """--older-than takes what ended so long ago, and says so when that is nothing."""
    run = ran(home)
    done = home.run("delete", "--older-than", "1h")
    assert (done.code, done.out) == (0, b"") and "1h" in done.err
    assert listed(home) == [run["uid"]]
    record = home.state / "runs" / f"{run['uid']}.json"
    record.write_text(record.read_text().replace(f'"finished": {int(run["finished"])}', f'"finished": {10**9}'))
    done = home.run("delete", "--older-than", "365d")
    assert run["name"] in done.text, done.err
    assert listed(home) == [] and stored(home, run) == []


def test_a_store_that_does_not_delete(home: Home) -> None:
    """A run whose content cannot be deleted is an error that names it, and is listed still; when nothing is there any
    more its record goes."""
    run = ran(home)
    aside = home.store.with_name("aside")
    os.rename(home.store, aside)
    home.store.write_text("no directory")
    home.run("delete", run["name"]).complains(1, run["uid"])
    assert listed(home) == [run["uid"]]
    home.store.unlink()
    assert home.run("delete", run["name"]).code == 0
    assert listed(home) == []
