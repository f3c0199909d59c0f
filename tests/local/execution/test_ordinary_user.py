"""The same tests once more without root's rights: in a user namespace of the runner's own."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ordinary import REPOSITORY, become_nobody, open_up, owned_directory

CLONE_NEWUSER = 0x10000000

RUNNER = """
from uuid import UUID
from resultsfs.local.plan import StepPlan, TaskRunPlan
from resultsfs.local.pod import execute
from resultsfs.settings import Settings
plan = TaskRunPlan("run", "default", UUID(int=1), "TaskRun", "run", (StepPlan("s0", script="echo ran"),), Settings(), stock=True)
execute(plan, lambda step, line: print(line))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of the ordinary user's, outside of pytest's own, which is root's alone."""
    with owned_directory() as made:
        yield made


def _as_nobody(directory: Path) -> None:
    open_up(directory)
    become_nobody()


def run_where_user_namespaces_are_forbidden(directory: Path) -> None:
    """Go into a user namespace with all ids, whose own limit of further ones is 0, and run RUNNER there.

    To be called in a process of its own: it forks, which one with other threads should not.
    """
    open_up(directory)
    me = os.getpid()
    wait, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        # only a process that stays outside may map more than one id
        os.read(wait, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{me}/{name}").write_text("0 0 100000")
        os._exit(0)
    assert ctypes.CDLL(None).unshare(CLONE_NEWUSER) == 0
    os.write(go, b"x")
    os.waitpid(helper, 0)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    become_nobody()
    os.execve(sys.executable, [sys.executable, "-c", RUNNER], {"PATH": os.environ["PATH"], "TMPDIR": str(directory)})


# all of the others in one: minutes where the machine is busy
@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.geteuid() != 0, reason="already an ordinary user: the other tests have proven it")
def test_everything_works_as_an_ordinary_user(directory: Path) -> None:
    """All tests of execution pass for a user without any capability, in private namespaces."""
    here = Path(__file__).parent
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--basetemp",
            str(directory / "base"),
            str(here),
        ],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(directory), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: _as_nobody(directory),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    passed = re.search(r"(\d+) passed", process.stdout)
    assert passed is not None
    # but for the tests of this file, and the one that takes a right away from root
    assert int(passed[1]) > 50
    assert " 3 skipped" in process.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="making a machine that forbids user namespaces takes root")
def test_where_user_namespaces_are_forbidden_the_message_says_what_to_do(directory: Path) -> None:
    """The setting to change is named, nothing has run, and nothing is left."""
    start = f"import sys, pathlib; import {__name__} as here; here.{run_where_user_namespaces_are_forbidden.__name__}"
    process = subprocess.run(
        [sys.executable, "-c", f"{start}(pathlib.Path(sys.argv[1]))", directory],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout == ""
    assert "NotSupported: this machine does not allow user namespaces to you" in process.stderr
    assert "sysctl -w user.max_user_namespaces=10000" in process.stderr
    assert [left.name for left in directory.iterdir()] == ["fuse"]
