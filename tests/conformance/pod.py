"""Runs one program as a container of a pod would: /tekton/results is the mount. `python -m tests.conformance.pod`."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from resultsfs import namespaces


def main(root: str, results: str, program: str, state: str, *arguments: str) -> None:
    """Build a root at `root` with /tekton in it, and become `program` there; `state` is /tekton/run and the rest."""
    namespaces.enter_mount_namespace()
    namespaces.tmpfs(root)
    namespaces.unbindable(root)
    for name in sorted(os.listdir("/")):
        mode = os.lstat(f"/{name}").st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif stat.S_ISDIR(mode) and name != "tekton":
            os.mkdir(f"{root}/{name}")
            namespaces.bind(f"/{name}", f"{root}/{name}")
    os.mkdir(f"{root}/tekton")
    namespaces.bind(state, f"{root}/tekton")
    namespaces.bind(results, f"{root}/tekton/results")
    namespaces.bind(program, f"{root}/tekton/bin/program")
    namespaces.change_root(root)
    os.chdir("/tekton/home")
    os.execv("/tekton/bin/program", [Path(program).name, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
