"""Descriptors run out: of the process that serves, and by whom."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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
    eventually(lambda: both.listed() == {})
    assert both.mounted() == []
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


def test_one_volume_does_not_take_all_descriptors(stage: Stage) -> None:
    """A volume opens as many files as its server can; another one still opens some, and new ones are mounted."""
    stage.holder()
    stage.server("sh", "-c", 'ulimit -n 600 && exec "$@"', "sh")
    greedy, modest = stage.mount("greedy"), stage.mount("modest")
    (modest / "report").write_text("content")
    taken: list[int] = []
    try:
        with pytest.raises(OSError) as caught:
            for number in range(600):
                taken.append(os.open(greedy / str(number), os.O_CREAT | os.O_RDWR))
        assert caught.value.errno == errno.ENFILE
        assert not (greedy / str(len(taken))).exists()
        events = (stage.directory / "greedy.spool" / "events.jsonl").read_text()
        assert events.count("TooManyOpenFiles") == 1 and "RLIMIT_NOFILE" in events
        with ExitStack() as others:
            for _ in range(50):
                assert others.enter_context(open(modest / "report")).read() == "content"
        (stage.mount("fresh") / "report").write_text("content")
        os.close(taken.pop())
        eventually(lambda: _opens(greedy / "again"))
    finally:
        for descriptor in taken:
            os.close(descriptor)


def _opens(file: Path) -> bool:
    try:
        file.touch()
    except OSError as error:
        assert error.errno == errno.ENFILE
        return False
    return True
