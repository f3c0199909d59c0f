"""One run: the S3 server, the contenders, the groups in their order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import contenders, durable, files, memory, mounts, starts, streams
from benchmarks.contenders import PLAIN, WITHOUT, Contender, opened
from benchmarks.peers import PEERS
from benchmarks.placement import Placement, placed, possible
from benchmarks.routes import direct
from benchmarks.sampling import Recorder
from benchmarks.scale import Scale
from tests.support import rclone

UNTOUCHED = "untouched"
GROUPS = (
    files.GROUP,
    streams.GROUP,
    starts.GROUP,
    mounts.GROUP,
    durable.GROUP,
    UNTOUCHED,
    durable.REFERENCES,
    memory.GROUP,
)
"""What `--only` takes, in the order in which it is measured."""


def run(scale: Scale, groups: Sequence[str], chosen: Sequence[str], parent: Path, recorder: Recorder) -> None:
    """Measure `groups` of the `chosen` contenders; everything lies below `parent`, on one disk, and is gone afterwards.

    Raises OSError for what fails on the disk, in the plain directory or in a mount of ours, RuntimeError when the S3
    server does not start.
    """
    with _home(parent) as home, _credentials(home), rclone.serving(home) as server:
        local = [group for group in (files.GROUP, streams.GROUP, starts.GROUP) if group in groups]
        if local:
            ordered = [PLAIN, *(name for name in chosen if name != PLAIN)]
            with opened(ordered, server, home, recorder) as places:
                for group in local:
                    _local(group, places, scale, recorder)
        chosen = [name for name in chosen if name != WITHOUT]
        if mounts.GROUP in groups:
            mounts.run(chosen, server, home, scale, recorder)
        if durable.GROUP in groups or durable.REFERENCES in groups:
            served = [name for name in chosen if name != PLAIN]
            with opened(served, server, home, recorder, prompt=True) as places, direct(server, home) as ways:
                if durable.GROUP in groups:
                    durable.run(places, ways, scale, recorder)
                if durable.REFERENCES in groups:
                    durable.run_references(places, ways, scale, recorder)
        ours = contenders.ours(chosen)
        if UNTOUCHED in groups:
            durable.run_untouched(ours, scale, recorder)
        if memory.GROUP in groups:
            memory.run(ours, server, home, scale, recorder)


def _local(group: str, places: Sequence[Contender], scale: Scale, recorder: Recorder) -> None:
    """Files and streams on one core, and for ours on two; starts wherever they come to run."""
    if group == starts.GROUP:
        starts.run([place for place in places if place.name != WITHOUT], scale, recorder)
        return
    for placement in Placement:
        chosen = [place for place in places if placement is Placement.ONE_CORE or place.name not in PEERS]
        if not possible(placement):
            recorder.missing[placement.of(group)] = "this process may use one core only"
            continue
        with placed(placement, chosen):
            (files.run if group == files.GROUP else streams.run)(chosen, scale, recorder, placement.of(group))


@contextmanager
def _home(parent: Path) -> Iterator[Path]:
    """A directory for the run; mounts that are made meanwhile lie in it too, so that all is on one disk."""
    with tempfile.TemporaryDirectory(prefix="resultsfs-bench-", dir=parent) as name:
        home = Path(name).resolve()
        before, tempfile.tempdir = tempfile.tempdir, str(home)
        try:
            yield home
        finally:
            tempfile.tempdir = before


@contextmanager
def _credentials(home: Path) -> Iterator[None]:
    """The S3 server's credentials in this process's environment, and none of the account that runs this."""
    before = dict(os.environ)
    os.environ.update(rclone.environment(home))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
