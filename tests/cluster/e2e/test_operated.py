"""Operated while it runs: whatever is ended, replaced or upgraded, PipelineRuns go on, lose nothing, and leave nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.cluster.e2e.site import SECONDS, Site, operated
from tests.cluster.e2e.traffic import Traffic
from tests.cluster.installation import Installation
from tests.cluster.kube import PIPELINERUN, POD, TASKRUN, Manifest
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import Places
from tests.cluster.room import Room
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

_PIPELINE_RUN = "tekton.dev/pipelineRun"

OURS: dict[str, Callable[[Site], None]] = {
    "the driver is killed": lambda site: site.kill("driver"),
    "the mounter is killed": lambda site: site.kill("mounter"),
    "the holder is killed": lambda site: site.kill("holder"),
    "driver and mounter are killed": lambda site: site.kill("driver", "mounter"),
    "the node's pod is deleted": lambda site: site.installation.replace("node"),
    "the chart is upgraded to other settings": lambda site: site.install(settings={"upload-workers": 1}),
    "the chart is upgraded to another image": lambda site: site.install_another_image(),
    "the holder's pod is deleted": lambda site: site.installation.replace("holder"),
    "the controllers are replaced": lambda site: site.replace_controllers(),
    "the store is away for a while": lambda site: site.lose_the_store(),
}
"""What no TaskRun notices: none fails an attempt."""
OTHERS: dict[str, Callable[[Site], None]] = {
    "a controller is killed": lambda site: site.kill("controller"),
    "the API server is killed": lambda site: site.cluster.restart("apiserver", 9),
    "containerd is killed": lambda site: site.cluster.restart("containerd", 9),
    "the kubelet is killed": lambda site: site.cluster.restart("kubelet", 9),
    "the node is drained": lambda site: site.drain(),
}
"""What may end an attempt in stock Tekton, too: it gives up where the API server does not take a pod, or the node loses
a container. While the Service still leads to a controller that was killed, a pod may be one of stock Tekton."""
_QUICK = ("driver and mounter are killed", "the holder is killed", "the node's pod is deleted", "the kubelet is killed")
"""What is not slow: a minute each."""


def _cases(names: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def site(cluster: Places, resultsfs: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """resultsfs with a store that can be ended."""
    with operated(Cluster(cluster), resultsfs, tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture(scope="module")
def traffic(cluster: Places, site: Site, hall: Room) -> Iterator[Traffic]:
    """PipelineRuns that are there all the time."""
    with Traffic(cluster.kubeconfig, hall.name) as found:
        yield found


@pytest.mark.parametrize("what", _cases(OURS))
def test_runs_do_not_notice(site: Site, hall: Room, traffic: Traffic, what: str) -> None:
    """What runs meanwhile ends well at its first attempt, as what comes after does; no pod stays."""
    before = traffic.judged()
    eventually(lambda: bool(site.installation.mounts()), SECONDS)
    OURS[what](site)
    verdicts = traffic.settled()
    assert not [again for name, verdict in verdicts.items() if name not in before for again in verdict.again]
    _no_pod_hangs(hall, traffic)


@pytest.mark.parametrize("what", _cases(OTHERS))
def test_runs_go_on(site: Site, hall: Room, traffic: Traffic, what: str) -> None:
    """What runs meanwhile ends well, at a second attempt only where stock Tekton would have needed one; no pod stays."""
    before = traffic.judged()
    eventually(lambda: bool(site.installation.mounts()), SECONDS)
    OTHERS[what](site)
    verdicts = traffic.settled()
    print([again for name, verdict in verdicts.items() if name not in before for again in verdict.again])
    _no_pod_hangs(hall, traffic)


def test_nothing_is_left(site: Site, hall: Room, traffic: Traffic) -> None:
    """When all runs are deleted, no pod, mount, spool, directory, object of the store or finalizer is there any more."""
    eventually(lambda: bool(site.installation.mounts()), SECONDS)
    pods = hall.kube.list(POD, hall.name)
    assert pods
    assert site.objects()
    traffic.close()
    for pod in hall.kube.list(POD, hall.name):
        hall.kube.wait_gone(POD, pod["metadata"]["name"], hall.name, deadline=SECONDS)
    for kind in (PIPELINERUN, TASKRUN, POD):
        assert hall.kube.list(kind, hall.name) == []
    eventually(lambda: not site.installation.mounts(), SECONDS)
    eventually(lambda: not site.spools(), SECONDS)
    eventually(lambda: not site.directories(pods), SECONDS)
    eventually(lambda: not site.objects(), SECONDS)
    assert site.metric("resultsfs_mounts") == 0


def _no_pod_hangs(room: Room, traffic: Traffic) -> None:
    """The pods of PipelineRuns that were deleted go."""

    def belongs(pod: Manifest) -> bool:
        return pod["metadata"]["labels"].get(_PIPELINE_RUN) in unfinished

    unfinished = traffic.unfinished()
    for pod in room.kube.list(POD, room.name):
        if not belongs(pod):
            room.kube.wait_gone(POD, pod["metadata"]["name"], room.name, deadline=SECONDS)
