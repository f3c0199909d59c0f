"""`resultsfs list`: the runs of this machine, and one run's results."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import Any

import click
from click.shell_completion import CompletionItem

from resultsfs.cli import clusters, options, tables
from resultsfs.cli.failures import BadInput
from resultsfs.cli.history import History, PastRun
from resultsfs.cli.places import runs_directory
from resultsfs.local import report
from resultsfs.settings import from_mapping
from resultsfs.store import Store


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of runs for the shell."""
    names = dict.fromkeys(run.outcome.name for run in reversed(History(runs_directory()).runs()))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command("list")
@click.argument("run", required=False, shell_complete=complete_run)
@options.namespace_option
@options.store_option
@options.settings_option
@clusters.cluster_options
@options.format_option
def list_(
    run: str | None,
    namespace: str | None,
    store: str | None,
    settings_file: str | None,
    kubeconfig: str | None,
    context: str | None,
    api: str | None,
    ca: str | None,
    form: str,
) -> None:
    """List the runs of this machine, or the results of RUN (its name or UID).

    With -n NAMESPACE (or --context), RUN is a cluster's: taskrun/NAME, pipelinerun/NAME or customrun/NAME.
    """
    cluster = clusters.Cluster(namespace, kubeconfig, context, api, ca, settings_file, store)
    if run is not None and clusters.wanted(run, cluster):
        with contextlib.closing(clusters.reader(run, cluster)) as reader:
            _show_cluster(reader.listing(), form)
        return
    if click.get_current_context().find_root().obj == clusters.PLUGIN or any((namespace, kubeconfig, context)):
        raise BadInput("name a run of the cluster: taskrun/NAME, pipelinerun/NAME or customrun/NAME")
    history = History(runs_directory())
    if run is None:
        _list_runs(history.runs(), form)
        return
    past = history.find(run)
    if form == "json":
        click.echo(json.dumps(report.as_object(past.outcome), ensure_ascii=False))
        return
    out = tables.console()
    tables.show_results(out, past.outcome, Store.open(from_mapping(past.settings)))
    tables.show_skipped(out, past.outcome)
    tables.show_end(out, past.outcome)


def _show_cluster(listing: dict[str, Any], form: str) -> None:
    if form == "json":
        click.echo(json.dumps(listing, ensure_ascii=False))
        return
    out = tables.console()
    table = tables.grid("TASK", "RESULT", "TYPE", "SIZE", "IN STATUS", right=("SIZE",))
    runs = Counter(task for task, _ in {(result["task"], result["run"]) for result in listing["results"]})
    for result in listing["results"]:
        task = result["task"] if runs[result["task"]] == 1 else f"{result['task']} ({result['run']})"
        size = "?" if result["size"] is None else tables.size(result["size"])
        held = "spilled" if result["spilled"] else "inline"
        table.add_row(task, result["name"], result["type"], size, held if result["available"] else "expired")
    out.print(table if listing["results"] else "No results.")
    out.print(f"{listing['kind']} {listing['namespace']}/{listing['name']}: {listing['status']} ({listing['reason']})")
    for note in listing["notes"]:
        click.echo(f"left out: {note}", err=True)


def _list_runs(runs: list[PastRun], form: str) -> None:
    if form == "json":
        click.echo(json.dumps([_summary(run) for run in runs], ensure_ascii=False))
    elif runs:
        tables.show_runs(tables.console(), runs)
    else:
        click.echo("No runs yet: `resultsfs run FILE` makes one.", err=True)


def _summary(run: PastRun) -> dict[str, Any]:
    outcome = run.outcome
    return {
        "kind": outcome.kind,
        "name": outcome.name,
        "namespace": outcome.namespace,
        "uid": str(outcome.uid),
        "status": outcome.status,
        "reason": outcome.reason,
        "started": run.started,
        "finished": run.finished,
        "store": run.settings.get("store", ""),
    }
