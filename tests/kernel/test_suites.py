"""Suites that others wrote: fio's own verification, and stress-ng's file stressors, for each way that content travels.

Where they are missing they are installed if that can be done (root, apt-get).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mount import Mount, mounted
from tests.support.takeover import WAYS

pytestmark = [
    pytest.mark.mount,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root"),
]

FIO = {
    "in sequence": "--rw=write --bs=128k",
    "at random": "--rw=randwrite --bs=4k",
    "reading and writing": "--rw=randrw --bs=8k",
    "odd blocks": "--rw=write --bs=3k",
    "direct": "--rw=randwrite --bs=4k --direct=1",
    "direct, several at once": "--rw=randwrite --bs=16k --ioengine=libaio --iodepth=8 --direct=1",
    "io_uring": "--rw=randwrite --bs=4k --ioengine=io_uring --iodepth=8",
    "mapped": "--rw=randwrite --bs=4k --ioengine=mmap",
    "fsync": "--rw=randwrite --bs=4k --fsync=8",
    "sparse": "--rw=randwrite --bs=4k --fallocate=truncate",
}
STRESSORS = (
    "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "fallocate", "filename", "flock", "fpunch", "fstat",
    "getdent", "hdd", "iomix", "link", "lockf", "mmap", "msync", "open", "rename", "seek", "symlink", "touch", "utime",
    "xattr",
)  # fmt: skip


def _required(program: str) -> str:
    """The program, installed if need be; skips where that cannot be."""
    found = shutil.which(program)
    if found is None and shutil.which("apt-get") is not None:
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", program]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode != 0:
            pytest.skip(f"{program} is missing, and apt-get does not install it: {done.stderr.strip()[-300:]}")
        found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is missing: install the package {program}")
    return found


@pytest.fixture(scope="module", params=list(WAYS))
def mount(request: pytest.FixtureRequest) -> Iterator[Mount]:
    """A served volume, its content by each of the ways."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WAYS[request.param].items():
            patch.setenv(name, value)
        with mounted(transport="native") as found:
            yield found


@pytest.mark.parametrize("job", FIO.values(), ids=list(FIO))
def test_fio_reads_what_it_wrote(mount: Mount, job: str) -> None:
    """Two jobs write 32 MiB each, and find every block's checksum right when they read it back."""
    command = [_required("fio"), "--name=verified", f"--directory={mount.path}", "--size=32m", "--numjobs=2"]
    command += ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0", "--unlink=1"]
    command += job.split()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("stressor", STRESSORS)
def test_stressors_pass(mount: Mount, stressor: str) -> None:
    """Two instances of one of stress-ng's stressors run for two seconds and find nothing wrong."""
    directory: Path = mount.path / stressor
    directory.mkdir()
    command = [
        _required("stress-ng"),
        f"--{stressor}",
        "2",
        "--timeout",
        "2s",
        "--temp-path",
        str(directory),
        "--verify",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    shutil.rmtree(directory)
    assert done.returncode == 0, done.stdout + done.stderr
