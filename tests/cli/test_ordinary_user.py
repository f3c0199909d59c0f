"""`resultsfs mount` by a user without root's rights: fusermount mounts, and all else is as for root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, DEADLINE
from tests.support.ordinary import NOBODY, REPOSITORY, become_nobody, open_up, owned_directory

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")]

SERVER = """
import os
from resultsfs.mounting import daemons
for pid, _ in daemons(os.path.realpath("point")):
    if b"resultsfs.server" in open(f"/proc/{pid}/cmdline", "rb").read():
        print(pid)
"""
SCRIPT = """
set -eu
mkdir point
"$@" mount point --results a >&2
echo hello > point/a
cat point/a
kill -9 $("$1" -P -c "$SERVER")
cat point/a
echo again > point/b
cat point/b
"$@" unmount point
ls -A point
"""


@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fusermount is not installed")
def test_a_mount_without_rights() -> None:
    """Mounting, serving, the replacement of a killed server and unmounting, in a mount namespace that ends with them."""
    with owned_directory() as directory:
        become = _in_a_namespace(directory)
        done = subprocess.run(
            ["/bin/sh", "-c", SCRIPT, "sh", *COMMAND],
            cwd=directory,
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(REPOSITORY), "SERVER": SERVER},
            preexec_fn=become,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        logs = "".join(log.read_text() for log in Path(directory).glob(".local/state/resultsfs/spools/*.log"))
        assert done.returncode == 0, done.stderr + logs
        assert done.stdout == f"hello\nhello\nagain\n{directory}/point is unmounted.\n", logs
        assert "keeps the rights of its user alone" in logs and "takes over volume" in logs
        assert (directory / "point").stat().st_uid == NOBODY


def _in_a_namespace(directory: Path) -> Callable[[], None]:
    def become() -> None:
        open_up(directory)
        become_nobody()

    return become
