"""Descriptors run out: of the process that serves, and by whom."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from resultsfs.holder.messages import Mount
from tests.support.holder import Process, Stage
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]


@contextmanager
def _opens_nothing(process: Process) -> Iterator[None]:
    """A process that gets no descriptor more, and keeps those that it has."""
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, hard))
    yield
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_a_mount_that_a_server_has_no_room_for_fails(both: Stage) -> None:
    """A new mount whose descriptor does not arrive is an error that names the limit; later ones are served."""
    with _opens_nothing(both.processes[1]):
        failed = both.fails(Mount(both.volume()))
    assert failed.errno == errno.EMFILE and "RLIMIT_NOFILE" in failed.error
    eventually(lambda: both.mounted() == [])
    (both.mount() / "report").write_text("content")


def test_what_a_server_has_no_room_for_is_given_again(both: Stage) -> None:
    """A mount that a successor cannot take for lack of descriptors is served as soon as there are some."""
    point = both.mount()
    (point / "report").write_text("kept")
    successor = both.server()
    with _opens_nothing(successor):
        both.processes[1].kill()
        successor.says("is lost: this process may open no more files")
        assert both.states() == {"v": "waiting"}
    successor.says("takes over volume v")
    assert (point / "report").read_text() == "kept"
    assert both.states() == {"v": "served"}
