"""`resultsfs doctor`: what this machine lacks, or a cluster's installation, and what to do about it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator

import click
from rich.text import Text

from resultsfs.cli import checks, options, tables
from resultsfs.cli.checks import Check, Level
from resultsfs.cli.failures import BadInput, Failure
from resultsfs.cli.places import state_directory

CHECKS = "resultsfs.checks"
"""Entry points of further checks: functions of kubeconfig, context and namespace that yield `Check`s."""
_MARKS = {Level.OK: ("ok  ", "green"), Level.WARN: ("warn", "yellow"), Level.FAIL: ("FAIL", "bold red")}
_INSTALLED_IN = "resultsfs"


@click.command()
@click.option("--cluster", is_flag=True, help="Check a cluster's installation, by kubeconfig as its administrator.")
@click.option("--kubeconfig", metavar="FILE", help="With --cluster. Default: as kubectl.")
@click.option("--context", metavar="NAME", help="With --cluster: context of the kubeconfig.")
@click.option(
    "-n", "--namespace", metavar="NAMESPACE", help=f'With --cluster: where it is installed; default "{_INSTALLED_IN}".'
)
@options.store_option
@options.settings_option
@options.format_option
def doctor(
    cluster: bool,
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    store: str | None,
    settings_file: str | None,
    form: str,
) -> None:
    """Check device, libfuse, kernel, namespaces, memory, disk, store and clock.

    With --cluster: Kubernetes, Tekton, the node driver, the controller, its webhooks, certificate and rights, the store.
    Exits with 1 if something is missing without which mounts or runs do not work.
    """
    if cluster:
        if store is not None or settings_file is not None:
            raise BadInput(
                "--store and --settings are this machine's: a cluster has its own, in the ConfigMap resultsfs"
            )
        looking = _of_cluster(kubeconfig, context, namespace or _INSTALLED_IN)
    else:
        if kubeconfig or context or namespace:
            raise BadInput("--kubeconfig, --context and --namespace are for --cluster")
        looking = checks.all_checks(options.settings_from(settings_file, store), state_directory())
    out = tables.console()
    found = []
    for check in looking:
        found.append(check)
        if form == "table":
            out.print(Text.assemble(_MARKS[check.level], f"  {check.name:<11} {check.found}"), soft_wrap=True)
            if check.advice:
                out.print(Text(f"                  {check.advice}", "dim"), soft_wrap=True)
    if form == "json":
        click.echo(json.dumps([dataclasses.asdict(check) for check in found], ensure_ascii=False))
    if any(check.level is Level.FAIL for check in found):
        sys.exit(1)


def _of_cluster(kubeconfig: str | None, context: str | None, namespace: str) -> Iterator[Check]:
    for found in importlib.metadata.entry_points(group=CHECKS, name="cluster"):
        try:
            look: Callable[[str | None, str | None, str], Iterator[Check]] = found.load()
        except ImportError as error:
            raise Failure(f"doctor --cluster needs more: pip install 'resultsfs[controller]' ({error})") from None
        return look(kubeconfig, context, namespace)
    raise Failure("doctor --cluster needs more: pip install 'resultsfs[controller]'")
