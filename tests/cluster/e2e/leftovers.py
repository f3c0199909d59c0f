"""Everything that an installation could leave: objects of every kind of the API, and what is on the node."""

from __future__ import annotations

from tests.cluster.e2e.readme import ByReadme

_COLUMNS = "KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
_OF_THEIR_OWN = {"Event"}
"""Kinds whose objects come and go while nobody does anything."""
_DIRECTORIES = ("/run", "/var/disk", "/var/lib", "/var/lib/kubelet/plugins", "/var/lib/kubelet/plugins_registry")
"""What pods mount of the node lies below these; the rest is the machine's, which others use too."""


def objects(resultsfs: ByReadme) -> set[str]:
    """All objects of the API server, of every kind that it can list, as `kind namespace name`."""
    listed = resultsfs.kubectl("api-resources", "--verbs=list", "--output=name").split()
    words = ("get", ",".join(listed), "--all-namespaces", "--no-headers", f"--output=custom-columns={_COLUMNS}")
    found = {" ".join(line.split()) for line in resultsfs.kubectl(*words).splitlines()}
    return {line for line in found if line.split()[0] not in _OF_THEIR_OWN}


def on_the_node(resultsfs: ByReadme) -> set[str]:
    """Mounts of ours, files and directories where an installation makes some, sockets and processes that name us."""
    entries = {
        path
        for directory in _DIRECTORIES
        for path in resultsfs.node("find", directory, "-mindepth", "1", "-maxdepth", "1").splitlines()
        if "resultsfs" in path or directory != "/run"
    }
    sockets = {line.split()[-1] for line in resultsfs.node("cat", "/proc/net/unix").splitlines() if "resultsfs" in line}
    processes = resultsfs.node("sh", "-c", "cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' '\\n'; true").splitlines()
    ours = {line for line in processes if line in ("csi", "controller", "resultsfs.holder")}
    return {*entries, *sockets, *ours, *resultsfs.mounts()}
