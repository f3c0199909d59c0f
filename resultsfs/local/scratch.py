"""A run's temporary directories: removed on leaving, and by the next run where the runner was killed before it could.

One that is in use has a lock file that its runner holds locked (flock(2)): the kernel unlocks it however the
runner ends. A directory without our lock file is none of ours, whatever its name.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

_PREFIX = "resultsfs-"
_LOCK = ".resultsfs-lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_log = logging.getLogger(__name__)


class Directory:
    """A temporary directory on disk (TMPDIR, else /var/tmp: results may be larger than memory), removed on leaving.

    Entering removes those of the same user that killed runners left.
    """

    def __enter__(self) -> Path:
        parent = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())
        remove_abandoned(parent)
        self._path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
        self._lock = _locked(self._path)
        return self._path

    def __exit__(self, *exception: object) -> None:
        try:
            _remove(self._path)
        finally:
            os.close(self._lock)


def remove_abandoned(parent: str) -> None:
    """Remove the directories in `parent` that are this user's and whose runner is gone.

    Nothing is followed and nothing of others is touched. What cannot be removed is told in the log, and stays
    for the next run.
    """
    with os.scandir(parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
    for name in names:
        path = Path(parent, name)
        with ExitStack() as opened:
            if not _taken_over(path, opened):
                continue
            try:
                _remove(path)
            except (OSError, subprocess.CalledProcessError) as error:
                _log.warning("%s is left of a run that was killed and cannot be removed: %s", path, error)


def _locked(directory: Path) -> int:
    """Make the lock file, locked from the moment it has its name; its descriptor."""
    unnamed = directory / f"{_LOCK}.new"
    lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(lock)
            raise
        # without its name nobody else ever removes the directory
        _log.info("%s: no locks on this filesystem: a runner that is killed leaves the directory", directory)
    else:
        unnamed.rename(directory / _LOCK)
    return lock


def _taken_over(path: Path, opened: ExitStack) -> bool:
    """Whether this is an abandoned directory of ours; if so, `opened` holds its lock."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened.callback(os.close, directory)
        if os.fstat(directory).st_uid != os.geteuid():
            return False
        lock = os.open(_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        opened.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        named = os.stat(_LOCK, dir_fd=directory, follow_symlinks=False)
    except OSError:  # no directory, a link, not made here, in use, or removed by another runner meanwhile
        return False
    found = os.fstat(lock)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and os.path.samestat(found, named)


def _remove(directory: Path) -> None:
    """Remove the directory, its lock file last: what a removal that is cut short leaves is found by the next run."""
    directory.chmod(0o700)
    if _empty(directory).returncode != 0:
        # a step may take its own rights on a directory away; root never comes here
        _unlock(directory)
        _empty(directory).check_returncode()
    for name in (_LOCK, f"{_LOCK}.new"):
        (directory / name).unlink(missing_ok=True)
    directory.rmdir()


def _empty(directory: Path) -> subprocess.CompletedProcess[bytes]:
    # not shutil.rmtree: a step may build a tree deeper than Python's recursion
    inside = [directory / name for name in os.listdir(directory) if not name.startswith(_LOCK)]
    command = ["rm", "-rf", "--one-file-system", "--", *map(str, inside)]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


def _unlock(directory: Path) -> None:
    pending = [directory]
    while pending:
        current = pending.pop()
        current.chmod(0o700)
        with os.scandir(current) as entries:
            pending.extend(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
