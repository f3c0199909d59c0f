"""What failed tests leave to look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster import artefacts
from tests.cluster.images import recipes
from tests.cluster.kube import NAMESPACE, POD, Kube, Manifest
from tests.cluster.machine.places import CHECKOUT, Places
from tests.cluster.room import Room

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

FAILING = """
from tests.cluster.room import Room

def test_fails(kube):
    with Room(kube, "t-fails-inside") as room:
        room.start({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "told"}, "message": "look at me",
                    "involvedObject": {"kind": "Pod", "name": "some", "namespace": room.name}})
        raise AssertionError("on purpose")
"""


def _restarting() -> Manifest:
    script = "test -e /kept/first && echo second && exec sleep 3600; echo first | tee /kept/first; exit 1"
    mount = {"name": "kept", "mountPath": "/kept"}
    container = {"name": "main", "image": recipes.busybox().reference, "command": ["sh", "-c", script]}
    spec = {"containers": [container | {"volumeMounts": [mount]}], "volumes": [{"name": "kept", "emptyDir": {}}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "restarting"},
        "spec": {**spec, "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 0},
    }


def _lives_again(pod: Manifest) -> bool:
    states = pod["status"].get("containerStatuses", [])
    return any(state["restartCount"] and "running" in state["state"] for state in states)


def test_a_container_that_was_restarted_leaves_both_logs(room: Room, tmp_path: Path) -> None:
    """What a container printed before it was restarted is kept beside what it prints now, with the pod's Events."""
    room.start(_restarting())
    room.wait(POD, "restarting", _lives_again, what="a second life")
    artefacts.namespace(room.kube, room.name, tmp_path)
    assert (tmp_path / "restarting.main.previous.log").read_text() == "first\n"
    assert (tmp_path / "restarting.main.log").read_text() in ("", "second\n")
    events = list(yaml.safe_load_all((tmp_path / "events.yaml").read_text()))
    assert {event["involvedObject"]["name"] for event in events} == {"restarting"}
    assert [pod["metadata"]["name"] for pod in yaml.safe_load_all((tmp_path / "pods.yaml").read_text())] == [
        "restarting"
    ]


def test_a_test_without_a_room_leaves_as_much(cluster: Places, kube: Kube, tmp_path: Path) -> None:
    """A failed test that has but the API leaves the systems' pods and Events, the node's logs, and the namespace that
    it made itself, which is gone by then."""
    (tmp_path / "test_failing.py").write_text(FAILING)
    command = [sys.executable, "-m", "pytest", "-p", "tests.cluster.conftest", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, "--rootdir", tmp_path, "-c", "/dev/null", tmp_path / "test_failing.py"],
        capture_output=True, text=True, timeout=600, check=False, cwd=CHECKOUT,
    )  # fmt: skip
    folder = artefacts.ARTEFACTS / "test_failing" / "test_fails"
    try:
        assert done.returncode == 1, done.stdout + done.stderr
        assert "on purpose" in done.stdout and str(folder) in done.stdout
        assert not (folder / "not-collected.txt").exists(), (folder / "not-collected.txt").read_text()
        assert "look at me" in (folder / "t-fails-inside" / "events.yaml").read_text()
        assert "tekton-pipelines-controller" in (folder / "tekton-pipelines" / "pods.yaml").read_text()
        assert list((folder / "tekton-pipelines").glob("tekton-pipelines-controller-*.log"))
        assert (folder / "tekton-pipelines" / "events.yaml").exists()
        assert (folder / "node" / "kubelet.log").stat().st_size > 0
    finally:
        subprocess.run(["rm", "-rf", folder.parent], check=True)
    assert not [found for found in kube.list(NAMESPACE) if found["metadata"]["name"] == "t-fails-inside"]
