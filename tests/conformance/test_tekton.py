"""Tekton's own entrypoint and sidecarlogresults collect through the mount."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from resultsfs import message
from resultsfs.reference import Reference
from resultsfs.settings import Settings
from resultsfs.store import Key, Store
from tests.support.mount import Mount, mounted

pytestmark = [pytest.mark.slow, pytest.mark.go, pytest.mark.mount, pytest.mark.timeout(1800)]

RESULTS = ("big", "small", "note")


class Pod:
    """One pod's volume, and containers run one after the other in it."""

    def __init__(self, mount: Mount, programs: dict[str, Path], state: Path) -> None:
        self.mount, self.programs, self.state = mount, programs, state
        self.steps = 0

    def _run(self, program: str, *arguments: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        root = self.state / f"root-{self.steps}"
        root.mkdir()
        command = [sys.executable, "-m", "tests.conformance.pod", str(root), str(self.mount.path)]
        command += [str(self.programs[program]), str(self.state / "tekton"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def step(self, script: str, *more: str) -> tuple[subprocess.CompletedProcess[str], list[message.Entry] | None]:
        """Run a script under Tekton's entrypoint; its outcome, and the results in its termination message."""
        status = self.state / "tekton" / "run" / str(self.steps) / "status"
        status.mkdir(parents=True)
        termination = self.state / "tekton" / f"termination-{self.steps}"
        arguments = ["-termination_path", f"/tekton/{termination.name}", "-results", ",".join(RESULTS), *more]
        arguments += [
            "-step_metadata_dir",
            f"/tekton/run/{self.steps}/status",
            "-post_file",
            f"/tekton/run/{self.steps}/out",
        ]
        arguments += ["-entrypoint", "/bin/sh", "--", "-ec", script]
        done = self._run("entrypoint", *arguments)
        self.steps += 1
        written = termination.read_bytes() if termination.exists() else b""
        return done, message.decode(written) if written else None

    def sidecar(self) -> dict[str, str]:
        """What sidecarlogresults prints once all steps have ended."""
        self.steps += 1
        done = self._run(
            "sidecarlogresults", "-results-dir", "/tekton/results", "-result-names", ",".join(RESULTS),
            "-step-results", "{}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return {line["name"]: line["value"] for line in lines}

    def content(self, value: str) -> bytes:
        """What a reference stands for, by the store alone."""
        store = Store.open(Settings(store=f"file://{self.mount.directory}/store"))
        reference = Reference.match(value)
        assert reference is not None, value[:200]
        return store.fetch(Key.of(self.mount.record.namespace, reference), 1 << 30)


@pytest.fixture
def pod(tekton_programs: dict[str, Path], tmp_path: Path, transport: str) -> Iterator[Pod]:
    """A pod in termination-message mode."""
    with _pod(tekton_programs, tmp_path, "entrypoint", transport=transport) as found:
        yield found


@contextmanager
def _pod(programs: dict[str, Path], directory: Path, collector: str, **record: Any) -> Iterator[Pod]:
    if os.geteuid() != 0:
        pytest.skip("containers of a pod need root here")
    for name in ("results", "bin", "home", "run", "steps", "scripts"):
        (directory / "tekton" / name).mkdir(parents=True)
    (directory / "tekton" / "bin" / "program").touch()
    with mounted(results=RESULTS, collector_exe=[programs[collector]], **record) as mount:
        yield Pod(mount, programs, directory)


def test_entrypoint_gets_a_reference_and_the_step_its_content(pod: Pod) -> None:
    """The step and a later one read 200 KB; the entrypoint's message holds 87 bytes that stand for them."""
    done, entries = pod.step("head -c 200000 /dev/zero | tr '\\0' x > /tekton/results/big; wc -c < /tekton/results/big")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "200000"
    assert entries is not None
    assert [entry.name for entry in entries] == ["big"]
    assert pod.content(entries[0].value) == b"x" * 200_000
    done, entries = pod.step("wc -c < /tekton/results/big; printf hello > /tekton/results/small")
    assert done.stdout.strip() == "200000"
    assert entries == [message.Entry("small", "hello")]


def test_stock_message_that_is_too_long_is_not_too_long_here(pod: Pod) -> None:
    """Three results that together break Tekton's 4096 bytes fit, in a real message of the real entrypoint."""
    script = "; ".join(f"head -c 2000 /dev/zero | tr '\\0' {name[0]} > /tekton/results/{name}" for name in RESULTS)
    done, entries = pod.step(script)
    assert done.returncode == 0, done.stderr
    assert entries is not None
    assert {entry.name for entry in entries} == set(RESULTS)
    spilled = [entry for entry in entries if Reference.match(entry.value)]
    assert [len(pod.content(entry.value)) for entry in spilled] == [2000] * len(spilled)
    assert spilled


def test_entrypoint_collects_after_failure_with_continue(pod: Pod) -> None:
    """A failing step under onError: continue adds its exit code to the message; the budget has room for it."""
    done, entries = pod.step(
        "head -c 3950 /dev/zero | tr '\\0' x > /tekton/results/small; exit 7", "-on_error", "continue"
    )
    assert done.returncode == 0, done.stderr
    assert entries is not None
    assert [entry.name for entry in entries] == ["small"]


def test_entrypoint_writes_stdout_to_a_result(pod: Pod) -> None:
    """stdoutConfig makes the entrypoint itself write the result; only its read-only open is a collection."""
    done, entries = pod.step("head -c 100000 /dev/zero | tr '\\0' o; echo", "-stdout_path", "/tekton/results/big")
    assert done.returncode == 0, done.stderr
    assert entries is not None
    assert pod.content(entries[0].value) == b"o" * 100_000 + b"\n"


def test_entrypoint_skips_what_was_moved_away(pod: Pod) -> None:
    """A result moved out of the volume, as Kubeflow does, is no error and no result."""
    done, entries = pod.step("echo x > /tekton/results/small; mv /tekton/results/small /tekton/home/")
    assert done.returncode == 0, done.stderr
    assert entries == []


def test_broken_utf8_is_weighed_as_the_entrypoint_writes_it(pod: Pod) -> None:
    """Bytes that are not UTF-8 cost six each in the message: of two results of 600 one is spilled, and it fits."""
    done, entries = pod.step(
        "for r in big small; do head -c 600 /dev/zero | tr '\\0' '\\377' > /tekton/results/$r; done"
    )
    assert done.returncode == 0, done.stderr
    assert entries is not None
    spilled = [entry for entry in entries if Reference.match(entry.value)]
    assert len(spilled) == 1
    assert pod.content(spilled[0].value) == b"\xff" * 600


def test_sidecarlogresults_reads_publications(tekton_programs: dict[str, Path], tmp_path: Path, transport: str) -> None:
    """In sidecar-logs mode the sidecar's log holds the reference; the steps' own reads see the content."""
    with _pod(tekton_programs, tmp_path, "sidecarlogresults", transport=transport, mode="sidecar-logs") as pod:
        (pod.mount.path / "big").write_bytes(b"x" * 300_000)
        (pod.mount.path / "small").write_bytes(b"hello\n")
        values = pod.sidecar()
        assert values["small"] == "hello\n"
        assert pod.content(values["big"]) == b"x" * 300_000
        assert (pod.mount.path / "big").stat().st_size == 300_000
