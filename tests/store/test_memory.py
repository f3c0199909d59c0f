"""Memory of a transfer does not grow with its size. Measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from resultsfs.settings import Settings, to_mapping
from tests.support.s3server import S3Server

MIB = 1 << 20
ROOT = Path(__file__).parents[2]


def grown(settings: Settings, mebibytes: int, directory: Path) -> int:
    """Growth in bytes of a process that moves that much to the store and back."""
    file = directory / "settings.yaml"
    file.write_text(yaml.safe_dump(to_mapping(settings)))
    command = [sys.executable, "-W", "error", "-m", "tests.support.transfer_memory", str(file), str(mebibytes)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    answer: int = json.loads(done.stdout)["grown"]
    print("grown", answer / MIB)
    return answer


@pytest.mark.s3
def test_s3_transfers_have_bounded_memory(s3_server: S3Server, tmp_path: Path) -> None:
    """256 MiB to S3 and back with the default settings: less than 64 MiB, the bound of the store's docstring."""
    assert grown(s3_server.settings(), 256, tmp_path) < 64 * MIB


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_4_gib_need_no_more(s3_server: S3Server, tmp_path: Path) -> None:
    """4 GiB to S3 and back need no more than 256 MiB do."""
    assert grown(s3_server.settings(), 4096, tmp_path) < 64 * MIB


def test_file_transfers_have_bounded_memory(tmp_path: Path) -> None:
    """256 MiB to a directory and back: less than 64 MiB."""
    assert grown(Settings(store=f"file://{tmp_path}/store"), 256, tmp_path) < 64 * MIB
