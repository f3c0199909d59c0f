"""What is removed of a volume that is gone: in little memory, and later what cannot be removed at once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.node import Node
from tests.support.waiting import eventually

REMOVING = """
import resource, sys
from csi import trees
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
limit = now + (4 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
trees.remove(sys.argv[1])
"""
PADDING = "x" * 240


@pytest.fixture
def tree() -> Iterator[Path]:
    """An empty directory, in memory where that is to be had, gone afterwards however deep it has become."""
    place = Path(tempfile.mkdtemp(prefix="resultsfs-tree-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    yield place
    subprocess.run(["rm", "-rf", str(place)], check=True)


def many_files(here: int) -> None:
    """30,000 empty files."""
    for number in range(30_000):
        os.close(os.open(f"{PADDING}{number}", os.O_CREAT | os.O_WRONLY, dir_fd=here))


def many_directories(here: int) -> None:
    """15,000 directories, in each of which there is one more."""
    for number in range(15_000):
        os.mkdir(f"{PADDING}{number}", dir_fd=here)
        os.mkdir(f"{PADDING}{number}/inner", dir_fd=here)


def deep(here: int) -> None:
    """20,000 directories, each in the one before, with a sibling."""
    here = os.dup(here)
    for _ in range(20_000):
        for name in ("sibling", PADDING):
            os.mkdir(name, dir_fd=here)
        step = os.open(PADDING, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = step
    os.close(here)


def deep_and_wide(here: int) -> None:
    """30 levels that have 60 directories each, with a file in each."""
    here = os.dup(here)
    for _ in range(30):
        for number in range(60):
            os.mkdir(f"{PADDING}{number}", dir_fd=here)
            os.close(os.open(f"{PADDING}{number}/file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        step = os.open(f"{PADDING}30", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = step
    os.close(here)


@pytest.mark.parametrize("build", [many_files, many_directories, deep, deep_and_wide])
def test_memory_does_not_grow_with_the_tree(tree: Path, build: Callable[[int], None]) -> None:
    """However many names there are, and wherever, a process that has 4 MiB to spare removes the tree."""
    here = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        build(here)
    finally:
        os.close(here)
    done = subprocess.run([sys.executable, "-c", REMOVING, str(tree)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert not tree.exists()


def block(directory: Path) -> Path:
    """Make a directory that even root cannot remove, for something is mounted at it; who does not look where it goes
    would empty what is mounted."""
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(directory)], check=True)
    (directory / "others").touch()
    return directory


def test_a_driver_begins_with_what_it_cannot_remove(fresh_node: Node) -> None:
    """What cannot be removed keeps neither the driver from answering nor the rest from being removed, is named in the
    log, and is removed once that is possible."""
    fresh_node.driver.stop()
    volumes = fresh_node.state / "volumes"
    stuck = volumes / ".gone-1"
    blocked = block(stuck / "files" / "blocked")
    others = [volumes / name for name in (".gone-0", ".gone-2", ".new-3")]
    for other in others:
        (other / "files").mkdir(parents=True)
    (volumes / ".gone-4").touch()  # no directory at all
    fresh_node.start_driver()
    volume = fresh_node.volume()
    (volume.publish() / "report").write_text("x")
    volume.unpublish()
    volume.gone()
    fresh_node.driver.said(r"volumes/\.gone-1 cannot be removed yet: .*busy.*blocked")
    fresh_node.driver.said(r"volumes/\.gone-4 cannot be removed yet: .*Not a directory")
    eventually(lambda: not any(other.exists() for other in others))
    assert (blocked / "others").exists()
    subprocess.run(["umount", str(blocked)], check=True)
    eventually(lambda: not stuck.exists())


def test_what_an_unpublish_left_is_removed_later(fresh_node: Node) -> None:
    """An unpublish that cannot remove the files says so; the next one finds the volume gone, and the files go later,
    without a restart of the driver."""
    fresh_node.unexpected_log_is_fine = True
    volume = fresh_node.volume()
    volume.publish()
    block(volume.spool / "files" / "blocked")
    with pytest.raises(grpc.RpcError, match="busy"):
        volume.unpublish()
    volume.unpublish()
    volume.gone()
    (left,) = (fresh_node.state / "volumes").glob(".gone-*")
    subprocess.run(["umount", str(left / "files" / "blocked")], check=True)
    eventually(lambda: not left.exists())
