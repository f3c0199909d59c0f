"""Commands, with what they printed in the error."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.cluster.machine.errors import ClusterError

Argument = str | Path


def run(
    command: Sequence[Argument],
    *,
    stdin: str | None = None,
    deadline: float = 120.0,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    source: Path | None = None,
) -> str:
    """What the command printed, which read `stdin` or the file `source`.

    Raises ClusterError with its standard error when it fails or takes more than `deadline` seconds.
    """
    said = shlex.join(map(str, command))
    try:
        with ExitStack() as files:
            given: dict[str, Any] = {"input": stdin or ""}
            if source is not None:
                given = {"stdin": files.enter_context(source.open("rb"))}
            done: subprocess.CompletedProcess[str] = subprocess.run(
                list(map(str, command)), capture_output=True, text=True, check=False,
                timeout=deadline, env=environment, cwd=directory, **given,
            )  # fmt: skip
    except FileNotFoundError as error:
        if error.filename != str(command[0]):
            raise
        raise ClusterError(f"{command[0]} is not installed ({said})") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{said}: no end within {deadline:.0f} s") from error
    if done.returncode != 0:
        raise ClusterError(f"{said}: exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
