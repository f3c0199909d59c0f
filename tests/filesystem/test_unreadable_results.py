"""A server short of descriptors says so to a collector, and does not pass results off as absent."""

from __future__ import annotations

import os
import resource

import pytest

from tests.support.mount import mounted
from tests.support.waiting import eventually

pytestmark = pytest.mark.mount

NAMES = tuple(f"result-{at:02}" for at in range(80))


def test_results_for_which_no_descriptor_is_left(transport: str) -> None:
    """The collector's open fails with EMFILE, which fails Tekton's step, and an Event names each; later all are read."""
    with mounted(transport=transport, results=NAMES) as mount:
        for name in NAMES:
            (mount.path / name).write_bytes(b"x")
        server = mount.server
        soft, hard = resource.prlimit(server, resource.RLIMIT_NOFILE)
        used = max(map(int, os.listdir(f"/proc/{server}/fd")))
        resource.prlimit(server, resource.RLIMIT_NOFILE, (used + 40, hard))
        read = mount.collect(*NAMES)
        resource.prlimit(server, resource.RLIMIT_NOFILE, (soft, hard))
        missing = read.stderr.count(b"Too many open files")
        assert 0 < missing < len(NAMES)
        assert len(read.stdout) == len(NAMES) - missing
        assert b"No such file" not in read.stderr
        eventually(lambda: len([event for event in mount.events() if event["reason"] == "ResultUnreadable"]) == missing)
        assert "EMFILE" in mount.events()[0]["message"]
        assert len(mount.collect(*NAMES).stdout) == missing
