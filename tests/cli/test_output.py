"""`resultsfs get --output`: files are replaced whole and keep what they are, all else is written as it is."""

from __future__ import annotations

import os
import pty
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import LARGE, Ran

pytestmark = pytest.mark.mount


def test_a_file_keeps_its_mode_and_its_links(shared: Ran, tmp_path: Path) -> None:
    """What was private stays private, and a link goes on leading to the file, also one to a file not there yet."""
    secret, link, dangling = tmp_path / "secret", tmp_path / "link", tmp_path / "dangling"
    secret.write_text("old")
    secret.chmod(0o600)
    link.symlink_to("secret")
    dangling.symlink_to("new")
    for path in (link, dangling):
        assert shared.home.run("get", shared.name, "large", "-o", path).code == 0
    assert (os.readlink(link), os.readlink(dangling)) == ("secret", "new")
    assert secret.read_text() == (tmp_path / "new").read_text() == LARGE
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dangling", "link", "new", "secret"]


def test_a_fifo_is_written_and_stays(shared: Ran, tmp_path: Path) -> None:
    """A FIFO, and a link to one, are given the content and are not replaced."""
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for path in (fifo, link):
            assert shared.home.run("get", shared.name, "make/small", "-o", path).code == 0
            assert os.read(descriptor, 100) == b"yes"
    finally:
        os.close(descriptor)
    assert stat.S_ISFIFO(os.lstat(fifo).st_mode) and link.is_symlink()


def test_a_device_is_written(shared: Ran) -> None:
    """A terminal's device, in whose directory no file can be made, is given the content."""
    terminal, other = pty.openpty()
    try:
        done = shared.home.run("get", shared.name, "make/small", "-o", os.ttyname(other))
        assert (done.code, os.read(terminal, 100)) == (0, b"yes"), done.err
    finally:
        os.close(terminal)
        os.close(other)


@pytest.mark.parametrize("path", ["-", "/dev/stdout"])
def test_stdout_by_name(shared: Ran, path: str) -> None:
    """`-` is stdout, and so is the name that the system has for it."""
    assert shared.home.run("get", shared.name, "large", "-o", path).out == LARGE.encode()
    assert not (shared.home.path / "-").exists()


def test_bad_places_are_named(shared: Ran, tmp_path: Path) -> None:
    """No name at all, and a link that leads in a circle."""
    shared.home.run("get", shared.name, "large", "-o", "").complains(2, "--output is empty", "stdout")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    shared.home.run("get", shared.name, "large", "-o", loop).complains(1, str(loop), "cannot be written")
