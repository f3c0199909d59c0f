"""A holder that hangs: the chart's liveness probe finds it, and the next holder goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.support.chart import committed
from tests.support.node import Node
from tests.support.pods import until_done
from tests.support.waiting import eventually

PROBE = committed().container("resultsfs-holder", "holder")["livenessProbe"]


def asked(node: Node) -> subprocess.CompletedProcess[str]:
    """What the kubelet's probe says of a node's holder."""
    program, *arguments = PROBE["exec"]["command"]
    assert program == "python"
    socket = node.state / "holder" / "holder.sock"
    command = [f"--holder={socket}" if text.startswith("--holder=") else text for text in arguments]
    assert command != arguments
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=90)


def test_a_holder_that_hangs_is_found(fresh_node: Node) -> None:
    """The probe passes while the holder answers, fails while it is stopped or not there, and says why, sooner than the kubelet
    gives up; after the restart the volume is served on by the same mount."""
    volume = fresh_node.volume()
    (volume.publish() / "report").write_text("before")
    eventually(lambda: asked(fresh_node).stdout == "the holder answers; volumes: 1\n")
    os.kill(fresh_node.holder.pid, signal.SIGSTOP)
    try:
        hanging = asked(fresh_node)
    finally:
        fresh_node.holder.kill9()  # the kubelet's SIGTERM would not reach it
    assert hanging.returncode == 1
    assert hanging.stderr == "Error: the other side of the holder's socket does not answer\n"
    assert "--timeout=10" in PROBE["exec"]["command"]
    assert PROBE["timeoutSeconds"] >= 2 * 10
    away = asked(fresh_node)
    assert away.returncode == 1
    assert "no holder listens at" in away.stderr
    fresh_node.start_holder()
    eventually(lambda: asked(fresh_node).stdout == "the holder answers; volumes: 1\n")
    assert (volume.target / "report").read_text() == "before"
    assert len(volume.mounts()) == 1
    until_done(volume.unpublish)
    volume.gone()
