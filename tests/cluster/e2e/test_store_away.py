"""A store that is away for longer than the spill-deadline: what works, what fails, and that its users are told why."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from resultsfs.reference import Reference
from tests.cluster.e2e.readme import ByReadme, installed
from tests.cluster.kube import NAMESPACE, PIPELINERUN, TASKRUN, Kube, Manifest
from tests.cluster.machine.places import Places
from tests.cluster.room import ENDED, Room, outcome, results, succeeded, task, taskrun
from tests.cluster.test_pipelines import makes, pipelinerun, reading, uses
from tests.cluster.test_results import DEADLINE, LARGE, fill, sha256
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SPILL_DEADLINE = 20.0
"""Seconds, as `ByReadme` sets it."""
_FITS = 2_000


@pytest.fixture(scope="module")
def readme(cluster: Places, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByReadme]:
    """Installed with an S3 server of this machine as its store, which can be stopped."""
    with installed(cluster, kube, tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture
def away(readme: ByReadme, kube: Kube) -> Iterator[Room]:
    """A namespace where what is larger than 1,000 bytes is spilled, and the store refuses connections until the end."""
    with Room(kube, "t-store-away") as room:
        kube.patch(NAMESPACE, room.name, {"metadata": {"annotations": {"resultsfs.dev/result-size-threshold": "1000"}}})
        try:
            yield room
        finally:
            readme.store.restart()


def test_away_for_twice_the_spill_deadline(readme: ByReadme, away: Room) -> None:
    """What fits stock Tekton succeeds, the rest fails by Tekton's own check, and what needs content waits; each says why."""
    waits = away.start(_waiting(readme))
    away.wait(TASKRUN, "waits-make", ENDED, deadline=DEADLINE, what="an end")
    readme.store.stop()
    began = time.monotonic()
    fits = away.start(taskrun("fits", ["report"], write=fill("report", _FITS)))
    large = away.start(taskrun("large", ["report"], write=fill("report", LARGE)))
    fits, large = (away.end(run, deadline=DEADLINE) for run in (fits, large))
    assert time.monotonic() - began > SPILL_DEADLINE
    assert succeeded(fits), outcome(fits)
    assert results(fits) == {"report": "x" * _FITS}
    assert not succeeded(large)
    assert results(large) == {}
    assert "Termination message is above max allowed size 4096" in away.log(large, "write")
    address = readme.store.endpoint.removeprefix("http://")
    for name, size in (("fits", "2.0 KiB"), ("large", "39.1 KiB")):
        for word in ("ResultSpillFailed", "'report'", size, "spill-deadline (20 s)", address):
            eventually(lambda: word in away.told(name), 60)  # noqa: B023
    for word in ('pipeline task "use"', "cannot be read now", address):
        eventually(lambda: word in away.told("waits"), DEADLINE)  # noqa: B023
    eventually(lambda: time.monotonic() - began > 2 * SPILL_DEADLINE, DEADLINE)
    assert not ENDED(away.kube.get(PIPELINERUN, "waits", away.name))
    readme.store.start()
    waits = away.end(waits, deadline=DEADLINE * 2)
    assert succeeded(waits), outcome(waits)
    assert away.log(away.taskruns(waits)["use"], "read").split() == [sha256(LARGE), "-"]
    after = away.run(taskrun("after", ["report"], write=fill("report", LARGE)), deadline=DEADLINE)
    assert succeeded(after), outcome(after)
    assert Reference.match(results(after)["report"])


def _waiting(readme: ByReadme) -> Manifest:
    """A pipeline whose last task needs a large result, and is created when the store has gone."""
    host, _, port = readme.store.endpoint.removeprefix("http://").partition(":")
    gate = task([], gate=f"while bash -c '(exec 3<> /dev/tcp/{host}/{port})' 2> /dev/null; do sleep 0.2; done")
    return pipelinerun(
        "waits",
        makes(fill("large", LARGE), ["large"]),
        {"name": "gate", "taskSpec": gate, "runAfter": ["make"]},
        uses(
            "use",
            "$(tasks.make.results.large)",
            reading('printf %s "$VALUE" | sha256sum'),
            runAfter=["gate"],
        ),
    )
