"""Runs of a cluster, for commands that otherwise know only this machine's.

What speaks to a cluster is a plugin (entry points `resultsfs.sources`), so that this package needs no Kubernetes.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import click

from resultsfs.cli.failures import BadInput, Failure

SOURCES = "resultsfs.sources"
PLUGIN = "plugin"
"""What the root context's object is where the command was called as kubectl's or tkn's plugin."""
KINDS = {
    "taskrun": "taskruns",
    "tr": "taskruns",
    "pipelinerun": "pipelineruns",
    "pr": "pipelineruns",
    "customrun": "customruns",
}
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Cluster:
    """How a cluster's runs are to be read: by its HTTP API at `api`, else by the store that settings name.

    `ca` is a file of authorities (PEM) by which the HTTP API may be known, beside those that this machine trusts.
    """

    namespace: str | None
    kubeconfig: str | None
    context: str | None
    api: str | None
    ca: str | None
    settings_file: str | None
    store: str | None


class Reader(Protocol):
    """One run of a cluster. Methods raise ResultsError."""

    def content(self, result: str) -> tuple[Iterator[bytes], int]:
        """A result's content, proven before its last bytes come, and its size in bytes."""
        ...

    def facts(self, result: str) -> dict[str, Any]:
        """What is known of a result: name, namespace, type, size, sha256, spilled, value, locations."""
        ...

    def listing(self) -> dict[str, Any]:
        """The run, all its results and those of the runs that it made.

        `results` have task, run, name, type, size (None: not known), sha256, spilled, available; `notes` name runs
        whose results are left out, and why.
        """
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def cluster_options(command: Command) -> Command:
    """The options that say which cluster."""
    for option in (
        click.option(
            "--ca",
            metavar="FILE",
            envvar="RESULTSFS_CA",
            help="With --api: an authority that its certificate may be of.",
        ),
        click.option("--api", metavar="URL", envvar="RESULTSFS_API", help="The HTTP API of a cluster's resultsfs."),
        click.option("--context", metavar="NAME", help="Context of the kubeconfig."),
        click.option("--kubeconfig", metavar="FILE", help="Read runs of a cluster. Default: as kubectl."),
    ):
        command = option(command)
    return command


def wanted(target: str | None, cluster: Cluster) -> bool:
    """Whether a target is a cluster's run: `taskrun/NAME`, and a namespace or a cluster is named."""
    is_run = target is not None and target.partition("/")[0].lower() in KINDS and "/" in target
    root = click.get_current_context().find_root()
    return is_run and (root.obj == PLUGIN or any((cluster.namespace, cluster.kubeconfig, cluster.context)))


def reader(target: str, cluster: Cluster) -> Reader:
    """The reader of `taskrun/NAME` and the like. Raises Failure where no plugin is installed, ResultsError."""
    kind, _, name = target.partition("/")
    for found in importlib.metadata.entry_points(group=SOURCES, name="cluster"):
        try:
            make = found.load()
        except ImportError as error:
            raise Failure(f"runs of a cluster need more: pip install 'resultsfs[controller]' ({error})") from None
        made: Reader = make(KINDS[kind.lower()], name, cluster)
        return made
    raise Failure("runs of a cluster need more: pip install 'resultsfs[controller]'")


def required(result: str | None, target: str) -> str:
    """The result's name. Raises BadInput without one."""
    if result is None:
        raise BadInput(f"name a result of {target}: `resultsfs list` shows them")
    return result
