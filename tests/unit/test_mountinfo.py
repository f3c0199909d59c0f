"""The mount table: escapes, optional fields, and which mount is on top."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from resultsfs import mountinfo

TABLE = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
36 22 0:31 / /a\040b\134c rw,nosuid,nodev - fuse.resultsfs resultsfs rw,user_id=0
37 36 0:32 /sub /a\040b\134c rw master:2 propagate_from:3 - tmpfs none rw
38 22 0:33 / /na\303\257ve\377 rw unbindable - fuse.resultsfs resultsfs
"""


def test_the_table_is_read() -> None:
    """Octal escapes are undone, optional fields skipped, options of mount and superblock joined."""
    root, first, second, odd = mountinfo.parse(TABLE)
    assert (root.mountpoint, root.filesystem, root.source, root.ours) == ("/", "ext4", "/dev/sda1", False)
    assert (first.mountpoint, first.ours, first.parent_id) == ("/a b\\c", True, 22)
    assert first.options == {"rw", "nosuid", "nodev", "user_id=0"}
    assert (second.root, second.filesystem) == ("/sub", "tmpfs")
    assert odd.mountpoint == "/naïve\udcff" and odd.ours


def test_the_topmost_mount_counts() -> None:
    """Of several mounts at one point the last one is what a path leads to."""
    table = mountinfo.parse(TABLE)
    found = mountinfo.at("/a b\\c", table)
    assert found is not None and found.mount_id == 37
    assert mountinfo.at("/elsewhere", table) is None


def test_the_real_table_is_read() -> None:
    """This machine's own table has a root, whatever else is mounted."""
    assert mountinfo.at("/") is not None


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")
@pytest.mark.parametrize("name", ["a b", "a\tb", "a\nb", "a\rb", "a\x0bb", "a\\b", "a\\040b", "a#b", "ü", "a\udcffb"])
def test_mounts_at_odd_paths_are_found(tmp_path: Path, name: str) -> None:
    """Whatever a directory is called, the mounts at it are found, those above one another in order."""
    path = tmp_path / name
    path.mkdir()
    assert mountinfo.all_at(str(path)) == []
    try:
        for source in ("first", "second"):
            subprocess.run(["mount", "-t", "tmpfs", source, path], check=True)
        assert [mount.source for mount in mountinfo.all_at(str(path))] == ["first", "second"]
        found = mountinfo.at(str(path))
        assert found is not None
        assert found.source == "second"
    finally:
        while mountinfo.all_at(str(path)):
            subprocess.run(["umount", path], check=True)
