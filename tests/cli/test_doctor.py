"""`resultsfs doctor`: each line says what was found and what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from resultsfs.cli import checks
from resultsfs.cli.checks import Level
from resultsfs.settings import Settings
from tests.cli.conftest import Home


@pytest.mark.mount
def test_a_machine_that_mounts_is_well(home: Home) -> None:
    """Where tests mount, no check fails, each line has its name, and what is well has no advice."""
    done = home.run("doctor", "--output", "json")
    assert done.code == 0, done.text
    names = [check["name"] for check in done.tree]
    assert {"device", "libfuse", "namespaces", "kernel", "memory", "spool", "store", "clock"} <= set(names)
    for check in done.tree:
        assert set(check) == {"name", "level", "found", "advice"} and check["level"] in ("ok", "warn")
        assert bool(check["advice"]) is (check["level"] != "ok")
    table = home.run("doctor").text
    assert all(name in table for name in names)


def test_a_store_that_is_away_fails(home: Home) -> None:
    """A store that nobody serves is told with its URL and what to do, and the command exits with 1."""
    with socket.socket() as unserved:  # bound, not listening: connections are refused
        unserved.bind(("127.0.0.1", 0))
        settings = home.file(
            "my.yaml",
            f"store: s3://bucket\ns3-endpoint: http://127.0.0.1:{unserved.getsockname()[1]}\ns3-region: x\nstore-retries: 0\n",
        )
        home.environment.update(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
        done = home.run("doctor", "--settings", settings)
    assert done.code == 1
    assert "FAIL" in done.text and "s3://bucket" in done.text and "credentials" in done.text
    assert "Traceback" not in done.err


def test_a_store_that_cannot_be_written_fails(home: Home) -> None:
    """A directory that cannot be made is told as such."""
    home.file("data", "in the way")
    done = home.run("doctor", "--output", "json")
    assert done.code == 1
    failed = [check for check in done.tree if check["level"] == "fail"]
    assert [check["name"] for check in failed] == ["store"]


def test_bad_settings_are_refused(home: Home) -> None:
    """The doctor refuses settings as every command does."""
    home.run("doctor", "--store", "what").complains(2, "'what'")


def test_the_device(tmp_path: Path) -> None:
    """A missing device, and one that cannot be opened, each have their cure."""
    missing = checks.device(str(tmp_path / "fuse"))
    assert missing.level is Level.FAIL and "modprobe fuse" in missing.advice
    closed = checks.device(str(tmp_path))
    assert closed.level is Level.FAIL and "chmod" in closed.advice
    assert checks.device("/dev/null").level is Level.OK


def test_libfuse() -> None:
    """A missing library, and one that is no libfuse, each have their cure."""
    missing = checks.libfuse(lambda name: None)
    assert missing.level is Level.FAIL and "libfuse2t64" in missing.advice
    stranger = checks.libfuse(lambda name: "libc.so.6")
    assert stranger.level is Level.FAIL and "libc.so.6" in stranger.found
    assert checks.needed_if(missing, True) == missing
    assert checks.needed_if(missing, False).level is Level.WARN


@pytest.mark.parametrize(
    ("release", "level"),
    [
        ("6.18.0-1-amd64", Level.OK),
        ("6.13.0", Level.OK),
        ("6.12.0-45-generic", Level.WARN),
        ("5.15.0", Level.WARN),
        ("5.2.1", Level.FAIL),
        ("4.18.0-el8", Level.FAIL),
        ("10.0", Level.OK),
    ],
)
def test_the_kernel(release: str, level: Level) -> None:
    """Versions are compared as numbers."""
    check = checks.kernel(release)
    assert check.level is level and release in check.found
    assert bool(check.advice) is (level is not Level.OK)


@pytest.mark.parametrize(
    ("skew", "level"),
    [(None, Level.OK), (0.0, Level.OK), (-4.9, Level.OK), (60.0, Level.WARN), (-60.0, Level.WARN), (901.0, Level.FAIL)],
)
def test_the_clock(skew: float | None, level: Level) -> None:
    """A few seconds are fine, minutes are a warning, a quarter of an hour is what S3 refuses."""
    assert checks.clock(skew).level is level


def test_memory(tmp_path: Path) -> None:
    """Little memory is a warning with its amount."""
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       2000000 kB\nMemAvailable:    102400 kB\n")
    check = checks.memory(str(path))
    assert (check.level, check.found) == (Level.WARN, "100 MiB available")
    assert checks.memory().name == "memory"


def test_the_disk(tmp_path: Path) -> None:
    """A disk with less room than one volume may take is a warning; the directory need not exist yet."""
    spool = tmp_path / "not" / "yet"
    assert checks.disk(spool, Settings(volume_size_limit=1 << 60)).level is Level.WARN
    assert checks.disk(spool, Settings(volume_size_limit=4096)).level is Level.OK
    assert not spool.exists()
