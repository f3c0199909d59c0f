"""Where the command keeps things, by the XDG base directory specification."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def state_directory() -> Path:
    """`${XDG_STATE_HOME:-~/.local/state}/resultsfs`; it may not exist yet."""
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):  # the specification: relative paths are ignored
        home = os.path.expanduser("~/.local/state")
    return Path(home) / "resultsfs"


def runs_directory() -> Path:
    """Where records of runs lie."""
    return state_directory() / "runs"


def spool_for(mountpoint: str) -> Path:
    """The spool of a mount for which none was named: the same one each time, so that nothing is lost."""
    digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:12]
    return state_directory() / "spools" / f"{os.path.basename(mountpoint) or 'root'}-{digest}"
