"""statvfs(2) of a mount, which may hang for ever while nobody serves it: on a thread that may be left to its fate."""

from __future__ import annotations

import errno
import os
import threading

_SECONDS = 5.0
_SOON = 1.0


class Stats:
    """At most one thread a path; one that hangs is not joined by a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[str, threading.Thread] = {}

    def is_dead(self, path: str) -> bool:
        """Whether nobody has the descriptor of a mount any more: it answers at once that it is not connected.

        One that is only not served at the moment does not answer at all, and goes on when it is.
        """
        try:
            self.of(path, _SOON)
        except TimeoutError:
            return False
        except OSError as error:
            return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        return False

    def of(self, path: str, seconds: float = _SECONDS) -> os.statvfs_result:
        """The filesystem at a path. Raises TimeoutError when it does not answer, other OSErrors."""
        found: list[os.statvfs_result | OSError] = []

        def ask() -> None:
            try:
                found.append(os.statvfs(path))
            except OSError as error:
                found.append(error)
            with self._lock:
                self._asked.pop(path, None)

        with self._lock:
            if path in self._asked:
                raise TimeoutError(f"the mount at {path} has not answered the last question yet")
            thread = self._asked[path] = threading.Thread(target=ask, name="statvfs", daemon=True)
            thread.start()
        thread.join(seconds)
        if not found:
            raise TimeoutError(f"the mount at {path} did not answer within {seconds:g} s")
        answer = found[0]
        if isinstance(answer, OSError):
            raise answer
        return answer
