"""Has the kernel write back one open file of a mount: run as a program, `python flush.py <mountpoint> <inode>`.

The path below the mount point comes on standard input. A process of its own, because whoever serves a mount must
never touch it: a server that is killed while the kernel waits for it here could not die. Nothing but the standard
library is loaded, and nothing but a regular file with that inode number is opened, through no link.
"""

from __future__ import annotations

import os
import stat
import sys

_LAST = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def main() -> None:
    """Flush the file. Exits with a message when it cannot be opened, or the kernel could not write it back."""
    mountpoint, inode = sys.argv[1:]
    path = sys.stdin.buffer.read()
    directory = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    *parents, name = path.split(b"/")
    for parent in parents:
        following = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        os.close(directory)
        directory = following
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or found.st_ino != int(inode):
        raise FileNotFoundError("another file has its name")
    try:
        file = os.open(name, os.O_RDONLY | _LAST, dir_fd=directory)
    except PermissionError:  # its owner may write it only
        file = os.open(name, os.O_WRONLY | _LAST, dir_fd=directory)
    os.fdatasync(file)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(str(error.strerror or error))
