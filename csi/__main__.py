"""`python -m csi`: the processes of a node but for the holder, which is `python -m resultsfs.holder`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from resultsfs.errors import ResultsError

if TYPE_CHECKING:
    from csi.api import Access


def _started(level: str) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=level.upper())


_level = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    default="info",
    show_default=True,
    help="What is logged.",
)
_kubelet = click.option(
    "--kubelet", default="/var/lib/kubelet", show_default=True, metavar="DIRECTORY", help="The kubelet's own directory."
)
_state = click.option(
    "--state",
    default="/var/lib/resultsfs",
    show_default=True,
    metavar="DIRECTORY",
    help="Where volumes and cached content lie, on a local disk of the node.",
)
_holder = click.option(
    "--holder",
    default="/var/lib/resultsfs/holder/holder.sock",
    show_default=True,
    metavar="SOCKET",
    help="The holder's socket.",
)
_api = (
    click.option("--api/--no-api", default=True, help="Ask the Kubernetes API server, and write Events."),
    click.option("--api-server", default="", metavar="URL", help="Another than the one that Kubernetes tells pods."),
    click.option("--api-ca", default="", metavar="FILE", help="Certificates by which that one is known."),
    click.option("--api-token", default="", metavar="FILE", help="A token for that one."),
)


def _asks_api(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_api):
        command = option(command)
    return command


def _access(*, api: bool, server: str, ca: str, token: str) -> Access | None:
    """Raises InvalidSetting outside of a pod, where none is named."""
    from csi.api import Access

    if not api:
        return None
    return Access(server, ca, token) if server else Access.in_cluster()


_node = click.option("--node-id", required=True, envvar="NODE_NAME", help="The node's name [env: NODE_NAME].")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The node driver of resultsfs."""


@main.command()
@click.option("--endpoint", default="unix:///csi/csi.sock", show_default=True, help="Where the kubelet asks.")
@_node
@_kubelet
@_state
@_holder
@click.option(
    "--mounter",
    default="http://127.0.0.1:9811/healthz",
    show_default=True,
    metavar="URL",
    help="The mounter's health, for Probe; empty: not asked.",
)
@click.option("--metrics", default=":9810", show_default=True, metavar="[HOST]:PORT", help="/metrics and /healthz.")
@_asks_api
@_level
def driver(
    endpoint: str,
    node_id: str,
    kubelet: str,
    state: str,
    holder: str,
    mounter: str,
    metrics: str,
    api: bool,
    api_server: str,
    api_ca: str,
    api_token: str,
    log_level: str,
) -> None:
    """Answer the kubelet: the CSI services Identity and Node."""
    from csi.driver import DriverOptions, run  # each process loads only its own half

    _started(log_level)
    try:
        access = _access(api=api, server=api_server, ca=api_ca, token=api_token)
        run(DriverOptions(endpoint, node_id, kubelet, state, holder, mounter, metrics, access))
    except (ResultsError, OSError) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@_node
@_kubelet
@_state
@_holder
@click.option(
    "--settings",
    required=True,
    metavar="PATH",
    help="The ConfigMap `resultsfs`: mounted as a directory, or as a YAML file.",
)
@click.option("--metrics", default=":9811", show_default=True, metavar="[HOST]:PORT", help="/metrics and /healthz.")
@_asks_api
@_level
def mounter(
    node_id: str,
    kubelet: str,
    state: str,
    holder: str,
    settings: str,
    metrics: str,
    api: bool,
    api_server: str,
    api_ca: str,
    api_token: str,
    log_level: str,
) -> None:
    """Serve what the holder holds."""
    from csi.mounter import MounterOptions, run

    _started(log_level)
    try:
        access = _access(api=api, server=api_server, ca=api_ca, token=api_token)
        run(MounterOptions(node_id, kubelet, state, holder, settings, metrics, access))
    except (ResultsError, OSError) as error:
        raise click.ClickException(str(error)) from None


@main.command("holder-alive")
@_holder
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds to wait for an answer."
)
def holder_alive(holder: str, timeout: float) -> None:
    """Ask the holder for its volumes; the exit code is 1 if it does not answer."""
    from csi.holder_alive import held

    try:
        count = held(holder, timeout)
    except ResultsError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"the holder answers; volumes: {count}")


if __name__ == "__main__":
    main(prog_name="python -m csi")
    sys.exit(0)
