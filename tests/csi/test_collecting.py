"""Who collects on a node: Tekton's entrypoint, known by the pod's own copy of it, or its sidecar."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from csi.names import SIDECAR
from resultsfs.collector import ByLink, ForSidecar, nobody
from resultsfs.reference import LENGTH
from tests.support.node import Node, VolumeOf
from tests.support.waiting import eventually

BIG = os.urandom(100_000)


def read_by(program: Path, path: Path) -> subprocess.CompletedProcess[bytes]:
    """What a process that runs this `cat` reads."""
    return subprocess.run([str(program), str(path)], capture_output=True, timeout=60, check=False)


def sidecar(volume: VolumeOf, *names: str) -> subprocess.CompletedProcess[bytes]:
    """What `cat` reads where it stands at the path of Tekton's sidecar, in a root directory of its own."""
    root = volume.node.root / f"image-{volume.pod}"
    program = root / SIDECAR.lstrip("/")
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/cat", program)
    for place in ("lib", "lib64", "usr", "results", "host"):
        (root / place).mkdir(exist_ok=True)
    script = f"""
        set -e
        mount --make-rprivate /
        mount --bind {root} {root}
        for place in lib lib64 usr; do mount --rbind /$place {root}/$place; done
        mount --bind {volume.target} {root}/results
        cd {root}
        pivot_root . host
        exec {SIDECAR} {" ".join(f"/results/{name}" for name in names)}
    """
    return subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, timeout=60, check=False)


def test_the_entrypoint_reads_references(node: Node) -> None:
    """The pod's copy of the entrypoint, which comes after publishing, reads a large result as a reference; a step, and
    another pod's entrypoint, read the content."""
    volume, other = node.volume(), node.volume()
    target = volume.publish()
    (target / "report").write_bytes(BIG)
    assert read_by(Path("/bin/cat"), target / "report").stdout == BIG
    entrypoint, foreign = volume.bring_entrypoint(), other.bring_entrypoint()
    assert read_by(foreign, target / "report").stdout == BIG
    reference = read_by(entrypoint, target / "report").stdout
    assert len(reference) == LENGTH
    assert reference.startswith(b"/tekton/results/.ref/")
    assert (target / ".ref" / reference.decode().rpartition("/")[2]).read_bytes() == BIG
    assert read_by(Path("/bin/cat"), target / "report").stdout == BIG
    volume.unpublish()
    volume.gone()


def test_a_threshold_of_its_own(node: Node) -> None:
    """A volume's attribute narrows the threshold; other volumes keep the node's."""
    low, common = node.volume(result_size_threshold="100"), node.volume()
    sizes = []
    for volume in (low, common):
        target = volume.publish()
        (target / "report").write_bytes(b"x" * 1000)
        sizes.append(len(read_by(volume.bring_entrypoint(), target / "report").stdout))
        volume.unpublish()
    assert sizes == [LENGTH, 1000]


def test_in_sidecar_mode_the_sidecar_collects(node: Node) -> None:
    """The sidecar, known by its path in its own container, reads a reference; entrypoints find no results."""
    volume = node.volume(mode="sidecar-logs", max_result_size="4096", results="report,small")
    target = volume.publish()
    (target / "report").write_bytes(BIG)
    (target / "small").write_bytes(b"small")
    entrypoint = volume.bring_entrypoint()
    for name in ("report", "small"):
        found = read_by(entrypoint, target / name)
        assert found.stdout == b""
        assert b"No such file" in found.stderr
    (target / "other").write_text("no result")
    assert read_by(entrypoint, target / "other").stdout == b"no result"
    found = sidecar(volume, "report", "small")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(b"/tekton/results/.ref/")
    assert found.stdout.endswith(b"small")
    assert len(found.stdout) == LENGTH + 5
    assert (target / "report").read_bytes() == BIG
    volume.unpublish()
    volume.gone()


def test_identities_of_sidecar_mode() -> None:
    """A process is a sidecar by its executable's path; who else collects does so without publishing."""
    own = os.readlink("/proc/self/exe")
    assert ByLink(own)(os.getpid()) is not None
    assert ByLink("/elsewhere")(os.getpid()) is None
    assert ByLink(own)(0) is None
    sidecar_found = ForSidecar(ByLink(own), nobody)(os.getpid())
    assert sidecar_found is not None
    assert sidecar_found.publishes
    other = ForSidecar(nobody, ByLink(own))(os.getpid())
    assert other is not None
    assert not other.publishes


def test_results_outlive_a_killed_mounter(fresh_node: Node) -> None:
    """A result written before the mounter was killed is collected by the next one."""
    volume = fresh_node.volume()
    target = volume.publish()
    (target / "report").write_bytes(BIG)
    fresh_node.mounter.kill9()
    fresh_node.start_mounter()
    entrypoint = volume.bring_entrypoint()
    assert len(read_by(entrypoint, target / "report").stdout) == LENGTH
    eventually(lambda: sum(path.is_file() for path in fresh_node.store.rglob("*")) == 2)  # content and manifest
    volume.unpublish()
    volume.gone()
