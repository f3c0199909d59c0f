"""The root directory that a TaskRun's steps see: this machine's, with /tekton and /workspace put in."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from resultsfs import namespaces
from resultsfs.errors import MountError
from resultsfs.local.podspec import RESULTS, TEKTON, WORKSPACE, PodDirectory, PodSpec, container_name
from resultsfs.local.stepinit import script_path

_OWN = frozenset({TEKTON.strip("/"), WORKSPACE.strip("/")})
_PREAMBLE = "#!/bin/sh\nset -e\n"


def prepare(pod: PodDirectory, spec: PodSpec) -> None:
    """Make the directories of a pod on disk, as Tekton's `prepare` container and its emptyDirs do."""
    for directory in (pod.results, pod.workspace, pod.root, pod.spool):
        directory.mkdir()
    pod.results.chmod(0o777)
    pod.workspace.chmod(0o777)
    for name in ("home", "results", "scripts", "artifacts", "creds", "steps", "run"):
        (pod.tekton / name).mkdir(parents=True)
    for index, step in enumerate(spec.steps):
        status = pod.tekton / "run" / str(index) / "status"
        for name in ("results", "artifacts"):
            (status / name).mkdir(parents=True)
        for name in (container_name(step, index), str(index)):
            (pod.tekton / "steps" / name).symlink_to(f"{TEKTON}/run/{index}/status")


def build(pod: PodDirectory, spec: PodSpec) -> None:
    """Mount the steps' root at `pod.root`, in the caller's own mount namespace; scripts are placed too.

    Raises MountError.
    """
    root = str(pod.root)
    namespaces.tmpfs(root)
    # else the bind of the directory that the pod's own lies in would hold this root once more
    namespaces.unbindable(root)
    for name in sorted(os.listdir("/")):
        if name not in _OWN:
            _show(f"/{name}", f"{root}/{name}")
    hidden = root + str(pod.path)
    if os.path.isdir(hidden):
        namespaces.tmpfs(hidden, mode=0)
    for source, path in ((pod.tekton, TEKTON), (pod.workspace, WORKSPACE)):
        os.mkdir(root + path)
        namespaces.bind(str(source), root + path)
    namespaces.bind(str(pod.results), root + RESULTS)
    # a script must be executable, which the disk that the pod's directory is on may forbid
    namespaces.tmpfs(f"{root}{TEKTON}/scripts")
    for index, step in enumerate(spec.steps):
        if step.script is not None:
            _place(Path(root + script_path(index)), step.script)
    _bind_workspaces(root, spec.workspaces)


def _show(source: str, target: str) -> None:
    mode = os.lstat(source).st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), target)
        return
    if stat.S_ISDIR(mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC))
    namespaces.bind(source, target)


def _place(path: Path, script: str) -> None:
    """Write a script as Tekton does (pkg/pod/script.go): without a shebang it is a shell's, with `set -e`."""
    text = script if script.strip().startswith("#!") else _PREAMBLE + script
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o755)


def _bind_workspaces(root: str, workspaces: Mapping[str, str]) -> None:
    for path, source in sorted(workspaces.items()):
        clean = os.path.normpath(path)
        if not clean.startswith("/") or clean == "/":
            raise MountError(
                f"workspace at {path!r}: its mountPath must be an absolute path, such as /workspace/source"
            )
        if not os.path.isdir(source):
            raise MountError(f"workspace at {path}: {source} is no directory of this machine; create it first")
        target = root + clean
        if os.path.realpath(target) != target:
            raise MountError(f"workspace at {path}: the path leads through a symbolic link; give it another mountPath")
        if not os.path.isdir(target):
            _make_mountpoint(root, path, clean)
        namespaces.bind(source, target)


def _make_mountpoint(root: str, path: str, clean: str) -> None:
    """Create a directory to mount at, where it is the pod's own; never one on the machine's disks."""
    top = clean.split("/")[1]
    if top not in _OWN and os.path.lexists(f"/{top}"):
        raise MountError(
            f"workspace at {path}: there is no such directory on this machine; create it, or give the workspace a "
            "mountPath below /workspace"
        )
    try:
        os.makedirs(root + clean, exist_ok=True)
    except OSError as error:
        raise MountError(f"workspace at {path}: {error.strerror}", error.errno) from None
