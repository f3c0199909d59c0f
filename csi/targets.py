"""Target paths: where the kubelet wants a volume, and nowhere else. Nothing here touches a mount.

The kubelet's directory belongs to root, so nobody swaps a part of a path for a link; a path that contains one, or
leads out of the pods' directory, is refused all the same.
"""

from __future__ import annotations

import errno
import os
import re
from uuid import UUID

from csi.names import VOLUMES
from resultsfs import mountinfo
from resultsfs.errors import ResultsError
from resultsfs.mountinfo import Mount


class InvalidTarget(ResultsError, ValueError):
    """A target path that the kubelet would not ask for."""

    default_errno = errno.EINVAL


class TargetOccupied(ResultsError):
    """Something that is no volume of ours lies at a target path."""

    default_errno = errno.EBUSY


_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Targets:
    """Target paths below one kubelet's directory (`/var/lib/kubelet`)."""

    def __init__(self, kubelet: str) -> None:
        self.pods = os.path.join(os.path.realpath(kubelet), "pods")

    def pod_directory(self, pod: UUID) -> str:
        """The kubelet's directory of a pod, which is there as long as the kubelet knows of the pod."""
        return os.path.join(self.pods, str(pod))

    def checked(self, path: str, pod: UUID | None = None) -> str:
        """The path if it is one of a CSI volume, of that pod if one is given. Raises InvalidTarget."""
        if "\0" in path or not path.startswith("/") or os.path.normpath(path) != path:
            raise InvalidTarget(f"target path {path!r}: expected an absolute path without . and ..")
        prefix = self.pods + "/"
        uid, _, rest = path.removeprefix(prefix).partition("/")
        inside = path.startswith(prefix) and _UID.fullmatch(uid) and rest.startswith(VOLUMES + "/")
        if not inside or len(rest) == len(VOLUMES) + 1:
            raise InvalidTarget(f"target path {path!r}: expected {prefix}<pod uid>/{VOLUMES}/<volume>/mount")
        if pod is not None and uid != str(pod):
            raise InvalidTarget(f"target path {path!r} is not one of pod {pod}")
        parent = os.path.dirname(path)
        if os.path.realpath(parent) != parent:
            raise InvalidTarget(f"target path {path!r}: {parent} leads elsewhere, to {os.path.realpath(parent)}")
        return path


def mounted(target: str) -> list[Mount]:
    """What is mounted at a target path, the topmost last, by the mount table alone: a stat could hang."""
    return mountinfo.all_at(target)


def make(target: str) -> bool:
    """Make the directory to mount at; False when it was there. Raises OSError, TargetOccupied."""
    os.makedirs(os.path.dirname(target), mode=0o750, exist_ok=True)
    try:
        os.mkdir(target, 0o750)
    except FileExistsError:
        if not os.path.isdir(target) or os.path.islink(target):
            raise TargetOccupied(f"target path {target} is no directory") from None
        with os.scandir(target) as entries:
            if next(entries, None) is not None:
                raise TargetOccupied(f"target path {target} is a directory with something in it") from None
        return False
    return True


def remove(target: str) -> None:
    """Remove the directory that nothing is mounted at any more; one that is gone is fine.

    Raises TargetOccupied when something lies in it: whatever that is, it is not ours to delete.
    """
    try:
        os.rmdir(target)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise TargetOccupied(f"target path {target} cannot be removed: {error.strerror}") from None
