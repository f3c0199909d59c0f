"""csi-sanity against the driver, with real mounts: all that applies to a driver of inline volumes passes."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from csi.names import EPHEMERAL, POD_NAME, POD_NAMESPACE, POD_UID, VOLUMES
from tests.support import sanity
from tests.support.node import running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.go,
    pytest.mark.mount,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root"),
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed: csi-sanity cannot be built"),
]

EXPECTED_TO_PASS = {
    "Identity Service GetPluginInfo should return appropriate information",
    "Identity Service Probe should return appropriate information",
    "Node Service should work",
    "Node Service should be idempotent",
    "Node Service NodeGetInfo should return appropriate values",
    "Node Service NodePublishVolume should fail when no target path is provided",
    "Node Service NodeUnpublishVolume should remove target path",
    "Node Service NodeGetVolumeStats should fail when volume does not exist on the specified path",
}
"""The specs that matter most here; lest they come to be skipped."""


def test_csi_sanity(tmp_path: Path) -> None:
    """No spec fails; those that are skipped are so because a capability is not offered, and each says which."""
    program = sanity.program()
    pod = str(uuid.uuid4())
    context = {
        EPHEMERAL: "true",
        POD_NAME: "sanity",
        POD_NAMESPACE: "tests",
        POD_UID: pod,
        "results": "report",
        "taskrun": "sanity",
        "run-uid": str(uuid.uuid4()),
    }
    report = tmp_path / "report.xml"
    with running() as node:
        place = node.kubelet / "pods" / pod / VOLUMES / "sanity"
        place.parent.mkdir(parents=True)
        socket = node.root / "sanity.sock"
        with sanity.with_controller(node.socket, context, socket):
            done = subprocess.run(
                [
                    program,
                    f"--csi.endpoint=unix://{socket}",
                    f"--csi.mountdir={place}",
                    f"--ginkgo.junit-report={report}",
                    "--ginkgo.v",
                ],
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
        found = sanity.specs(report)
        for spec in found:
            print(f"{spec.status:8} {spec.name}{spec.why and f': {spec.why}'}")
        print({status: sum(spec.status == status for spec in found) for status in ("passed", "skipped", "pending")})
        assert done.returncode == 0, done.stdout[-8000:]
        assert {spec.status for spec in found} <= {"passed", "skipped", "pending"}
        passed = {spec.name for spec in found if spec.status == "passed"}
        assert passed >= EXPECTED_TO_PASS
        unexplained = [spec.name for spec in found if spec.status != "passed" and not spec.why]
        assert unexplained == []
        assert list((node.state / "volumes").iterdir()) == []
