"""Images into a node's containerd."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.images.archive import Image, write


def load(images: Sequence[Image], ctr: Sequence[str | Path]) -> list[Image]:
    """Import the images that the node does not have yet with this content, and say which.

    `ctr` is containerd's client with its address, such as `("ctr", "--address", socket)`. Raises RuntimeError with
    what it printed.
    """
    client = [*map(str, ctr), "--namespace", "k8s.io"]
    listed = _run([*client, "images", "list"])
    known = {tuple(line.split()[:3:2]) for line in listed.splitlines()[1:] if line.strip()}
    missing = [image for image in images if (image.reference, image.digest) not in known]
    if missing:
        there = set(_run([*client, "content", "list", "--quiet"]).split())
        _import(missing, there, [*client, "images", "import", "-"])
    return missing


def _import(images: list[Image], there: set[str], command: list[str]) -> None:
    """As a stream of what is not there yet: nothing is written but by containerd."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said)
        assert process.stdin is not None
        try:
            with process.stdin:
                write(process.stdin, images, there)
        except BrokenPipeError:
            pass  # it ended before it had read all: its exit code and its words say why
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait(timeout=600)
        said.seek(0)
        if code != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {code}: {said.read().decode(errors='replace').strip()}")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout
