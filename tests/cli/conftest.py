"""The command as a person runs it: a process, with a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resultsfs import mountinfo, mounting
from resultsfs.errors import MountError
from resultsfs.reference import Reference

COMMAND = [sys.executable, "-P", "-c", "from resultsfs.cli import main; main()"]
DEADLINE = 300.0
"""Seconds that only a hanging command reaches."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Its stdout as text."""
        return self.out.decode()

    @property
    def tree(self) -> Any:
        """Its stdout as exactly one JSON document."""
        return json.loads(self.out)

    def complains(self, code: int, *words: str) -> None:
        """Check that it failed as a command should: one line on stderr that has these words, and no output."""
        assert (self.code, self.out) == (code, b""), self.err
        assert "Traceback" not in self.err
        last = self.err.splitlines()[-1]
        assert last.startswith(("resultsfs: ", "Error: ")), self.err
        for word in words:
            assert word in last, self.err


class Home:
    """A home directory, and the command run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state" / "resultsfs"
        self.store = path / "data" / "resultsfs" / "store"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "RESULTSFS", "AWS_"))},
            "HOME": str(path),
            "XDG_STATE_HOME": str(path / "state"),
            "XDG_DATA_HOME": str(path / "data"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def run(self, *words: str | Path, stdin: bytes = b"") -> Done:
        """Run `resultsfs` with these words to its end."""
        done = subprocess.run(
            [*COMMAND, *map(str, words)],
            input=stdin,
            capture_output=True,
            env=self.environment,
            cwd=self.path,
            timeout=DEADLINE,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start `resultsfs`; the caller ends it."""
        return subprocess.Popen([*COMMAND, *map(str, words)], env=self.environment, cwd=self.path, **options)

    def file(self, name: str, text: str) -> Path:
        """Write a file into the home."""
        path = self.path / name
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A fresh home; mounts in it are gone afterwards."""
    yield Home(tmp_path)
    unmount_all(tmp_path)


def unmount_all(directory: Path) -> None:
    """Take off what a test left mounted below a directory."""
    for mount in reversed(mountinfo.mounts()):
        if mount.ours and mount.mountpoint.startswith(f"{directory}/"):
            try:
                mounting.unmount(mount.mountpoint)
            except MountError:  # still in use by what a failed test left
                mounting.unmount(mount.mountpoint, lazy=True)


PIPELINE = """\
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {name: demo}
spec:
  params: [{name: size, default: "50000"}]
  results:
    - {name: text, value: $(tasks.make.results.large)}
  tasks:
    - name: make
      params: [{name: size, value: $(params.size)}]
      taskSpec:
        params: [{name: size}]
        results:
          - {name: small}
          - {name: large}
          - {name: list, type: array}
          - {name: json}
        steps:
          - name: write
            script: |
              #!/bin/sh
              set -eu
              printf yes > $(results.small.path)
              head -c $(params.size) /dev/zero | tr '\\0' x > $(results.large.path)
              printf '["%s","b"]' "$(head -c 5000 /dev/zero | tr '\\0' y)" > $(results.list.path)
              printf '{"a": [1, "two", {"b": null}], "pad": "%s"}' "$(head -c 5000 /dev/zero | tr '\\0' z)" > $(results.json.path)
              echo written
    - name: other
      taskSpec:
        results: [{name: small}, {name: bytes}]
        steps:
          - name: write
            script: |
              #!/bin/sh
              printf no > $(results.small.path)
              printf 'a\\377b' > $(results.bytes.path)
    - name: chosen
      when: [{input: $(tasks.make.results.small), operator: in, values: ["yes"]}]
      params: [{name: text, value: $(tasks.make.results.large)}]
      taskSpec:
        params: [{name: text}]
        steps:
          - name: check
            env: [{name: TEXT, value: $(params.text)}]
            script: |
              #!/bin/sh
              echo "got ${#TEXT} bytes"
    - name: left
      when: [{input: $(tasks.make.results.small), operator: in, values: ["no"]}]
      taskSpec:
        steps: [{name: never, script: "#!/bin/sh\\nexit 1"}]
"""

LARGE, LIST = "x" * 50000, ["y" * 5000, "b"]


class Ran:
    """A home in which the pipeline has run once; tests only read, or change what is theirs alone."""

    def __init__(self, home: Home) -> None:
        self.home = home
        done = home.run("run", home.file("p.yaml", PIPELINE), "--output", "json")
        assert done.code == 0, done.err
        self.run: dict[str, Any] = done.tree
        self.name: str = self.run["name"]
        results = {result["name"]: result for result in self.run["taskRuns"][0]["results"]}
        self.reference = Reference.parse(results["large"]["value"])

    @property
    def stored(self) -> Path:
        """The file in the store that holds the large result."""
        return self.home.store / "default" / str(self.reference.run) / self.reference.sha256


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run for all tests that only read."""
    return Ran(Home(tmp_path_factory.mktemp("home")))
