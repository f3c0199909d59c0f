"""Commands that a person runs against a cluster: `resultsfs gc`, `resultsfs advise`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click
from rich.text import Text

from resultsfs.cli import options, tables
from resultsfs.cli.failures import BadInput, Failure
from resultsfs.settings import Settings
from resultsfs.units import format_size, parse_size

if TYPE_CHECKING:
    from controller.garbage.sweep import Outcome, Verdict
    from controller.kube.client import Kube

SHOWN = 20
"""TaskRuns in a table; JSON has all."""
kubeconfig_option = click.option("--kubeconfig", metavar="FILE", help="Default: as kubectl, else the pod's account.")
context_option = click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
scope_option = click.option("-n", "--namespace", metavar="NAMESPACE", help="Default: all namespaces.")


@click.command()
@kubeconfig_option
@context_option
@scope_option
@options.settings_option
@options.store_option
@click.option("--dry-run", is_flag=True, help="Delete nothing: say what would go, and why the rest stays.")
@options.format_option
def gc(
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    settings_file: str | None,
    store: str | None,
    dry_run: bool,
    form: str,
) -> None:
    """Delete the content of runs that are gone, or whose retention has passed, once.

    By the cluster's settings: --settings, else its ConfigMap resultsfs/resultsfs; --store replaces their store alone.
    The controller does this all the time. Content of a run that is found gone for the first time goes after
    `garbage-grace`, at a later call.
    """
    from controller.garbage.sweep import Outcome, Sweeper
    from controller.kube.client import Kube
    from controller.kube.endpoint import for_person
    from resultsfs.store import Store

    kube = Kube(for_person(kubeconfig, context))
    try:
        settings = _settings(kube, settings_file, store, dry_run)
        opened = Store.open(settings)
        try:
            sweeper = Sweeper(kube, opened, settings)
            sweeper.claim(note=not dry_run)
            verdicts = list(sweeper.judge(namespace, note=not dry_run, weigh=True))
            refused = [verdict for verdict in verdicts if verdict.error]
            outcome = Outcome([], refused) if dry_run else sweeper.execute(verdicts, lambda: True)
        finally:
            opened.close()
    finally:
        kube.close()
    _say(verdicts, outcome, opened.url, dry_run, form)
    for verdict in outcome.failed:
        click.echo(f"resultsfs: {verdict.namespace}/{verdict.uid} is left: {verdict.error}", err=True)
    if outcome.failed:
        raise Failure(f"the store refused {len(outcome.failed)} of {len(verdicts)} runs' content")


def _say(verdicts: list[Verdict], outcome: Outcome, url: str, dry_run: bool, form: str) -> None:
    errors = {(verdict.namespace, verdict.uid): verdict.error for verdict in outcome.failed}
    if form == "json":
        rows = [
            {
                "namespace": verdict.namespace,
                "run": str(verdict.uid),
                "goes": bool(verdict.reason),
                "reason": verdict.reason,
                "why": verdict.why,
                "bytes": verdict.size,
                "error": errors.get((verdict.namespace, verdict.uid), ""),
            }
            for verdict in verdicts
        ]
        click.echo(json.dumps({"dryRun": dry_run, "runs": rows}, ensure_ascii=False))
        return
    out = tables.console()
    if verdicts:
        table = tables.grid("NAMESPACE", "RUN", "GOES", "BYTES", "WHY", right=("BYTES",))
        for verdict in verdicts:
            goes = Text(verdict.reason or "no", "red" if verdict.reason else "green")
            size = "" if verdict.size is None else str(verdict.size)
            table.add_row(verdict.namespace, str(verdict.uid), goes, size, verdict.why)
        out.print(table)
    doomed = [verdict for verdict in verdicts if verdict.reason] if dry_run else outcome.deleted
    size = format_size(sum(verdict.size or 0 for verdict in doomed))
    said = f"{'would go' if dry_run else 'deleted'}: {len(doomed)}"
    out.print(f"{len(verdicts)} runs have content in {url}; {said} ({size}).", soft_wrap=True)


def _settings(kube: Kube, settings_file: str | None, store: str | None, dry_run: bool) -> Settings:
    """Those by which the cluster's controller deletes, or refused: by others content would go that it keeps."""
    from controller.configuration import SYSTEM, installed
    from controller.kube.errors import ApiError

    try:
        found = installed(kube) if settings_file is None else options.settings_from(settings_file, None)
    except ApiError as error:
        unknown = f"the cluster's settings cannot be read from ConfigMap {SYSTEM}/{SYSTEM} ({error})"
        if store is None or not dry_run:
            raise BadInput(f"{unknown}: name them with --settings FILE; nothing is deleted without them") from None
        click.echo(f"resultsfs: {unknown}; this is what would go by default settings", err=True)
        found = Settings()
    if store is not None:
        found = dataclasses.replace(found, store=store)
    if not found.store:
        raise BadInput("the cluster's settings name no store: name it with --store URL")
    return found


@click.command()
@kubeconfig_option
@context_option
@scope_option
@click.option(
    "--threshold", "texts", multiple=True, metavar="SIZE", help="May be given several times. Default: 256 to 4096."
)
@options.format_option
def advise(
    kubeconfig: str | None, context: str | None, namespace: str | None, texts: tuple[str, ...], form: str
) -> None:
    """Tell what the cluster's TaskRuns keep in etcd, what each threshold would spill, and which failed for size."""
    from controller import advise as advising
    from controller.kube.client import Kube
    from controller.kube.endpoint import for_person

    try:
        thresholds = tuple(parse_size(text) for text in texts) or advising.THRESHOLDS
    except ValueError as error:
        raise BadInput(f"--threshold {', '.join(map(repr, texts))}: {error}") from None
    kube = Kube(for_person(kubeconfig, context))
    try:
        advice = advising.advise(kube, namespace, thresholds)
    finally:
        kube.close()
    if form == "json":
        click.echo(json.dumps(advice.as_object(), ensure_ascii=False))
        return
    out = tables.console()
    out.print(
        f"{advice.task_runs} TaskRuns hold {advice.results} results of {format_size(advice.bytes)}, the largest of "
        f"{format_size(advice.largest)}; {advice.spilled} are spilled already.",
        soft_wrap=True,
    )
    table = tables.grid(
        "THRESHOLD", "TASKRUNS", "RESULTS", "ETCD SAVED", right=("THRESHOLD", "TASKRUNS", "RESULTS", "ETCD SAVED")
    )
    for row in advice.thresholds:
        table.add_row(format_size(row.threshold), str(row.task_runs), str(row.results), format_size(row.saved))
    out.print(table)
    if advice.spilling:
        table = tables.grid("WOULD SPILL", "LARGEST", "AT", right=("LARGEST",))
        for one in advice.spilling[:SHOWN]:
            at = ", ".join(format_size(size) for size in one.thresholds)
            table.add_row(f"{one.namespace}/{one.name}", tables.size(one.largest), at)
        out.print(table)
    if len(advice.spilling) > SHOWN:
        out.print(f"{len(advice.spilling) - SHOWN} more TaskRuns would spill: --output json has all.")
    for failure in advice.failures:
        out.print(
            Text(f"failed for size: {failure.namespace}/{failure.name}: {failure.evidence}", "red"), soft_wrap=True
        )
    for name in advice.without_results:
        out.print(Text(f"succeeded without declared results: {name}", "yellow"), soft_wrap=True)
    if not advice.failures:
        out.print("No TaskRun is known to have failed for its results' size.")
