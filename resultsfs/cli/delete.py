"""`resultsfs delete`: runs of this machine, with all that they stored."""

from __future__ import annotations

import contextlib
import json
import time

import click

from resultsfs.cli import options
from resultsfs.cli.failures import BadInput
from resultsfs.cli.history import History, PastRun
from resultsfs.cli.listing import complete_run
from resultsfs.cli.places import runs_directory
from resultsfs.settings import from_mapping
from resultsfs.store import Store
from resultsfs.units import format_size, parse_duration


@click.command()
@click.argument("names", metavar="[RUN]...", nargs=-1, shell_complete=complete_run)
@click.option("--older-than", metavar="AGE", help="All that ended so long ago, such as 12h or 30d; 0s: all.")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@options.format_option
def delete(names: tuple[str, ...], older_than: str | None, dry_run: bool, form: str) -> None:
    """Delete RUNs of this machine (names or UIDs): what they spilled to their store, and their records."""
    history = History(runs_directory())
    chosen = {run.outcome.uid: run for run in _chosen(history, names, older_than)}
    rows = []
    for run in chosen.values():
        size = _delete(run, history, dry_run)
        rows.append({"name": run.outcome.name, "uid": str(run.outcome.uid), "bytes": size})
        if form == "table":
            said = "would delete" if dry_run else "deleted"
            click.echo(
                f"{said} {run.outcome.name} ({run.outcome.uid}) and {format_size(size)} in {run.settings['store']}"
            )
    if form == "json":
        click.echo(json.dumps({"dryRun": dry_run, "runs": rows}, ensure_ascii=False))
    elif not rows:
        click.echo(f"no run of this machine ended {older_than} ago or earlier", err=True)


def _chosen(history: History, names: tuple[str, ...], older_than: str | None) -> list[PastRun]:
    """All that were asked for, or none. Raises BadInput, InvalidKey."""
    if bool(names) == (older_than is not None):
        raise BadInput("say which runs: RUN..., as `resultsfs list` shows them, or --older-than AGE")
    if older_than is not None:
        try:
            latest = time.time() - parse_duration(older_than)
        except ValueError as error:
            raise BadInput(f"--older-than {older_than!r}: {error}") from None
        return [run for run in history.runs() if run.finished <= latest]
    found = []
    for name in names:
        called = history.called(name)
        if len(called) > 1:
            uids = ", ".join(str(run.outcome.uid) for run in called)
            raise BadInput(f"{len(called)} runs are called {name!r}: say which by UID: {uids}")
        found += called
    return found


def _delete(run: PastRun, history: History, dry_run: bool) -> int:
    """How many bytes its content has. The record goes last: a run whose content could not be deleted is listed still."""
    whose = run.outcome.namespace, run.outcome.uid
    with contextlib.closing(Store.open(from_mapping(run.settings))) as store:
        size = sum(count for _, count in store.contents(*whose))
        if not dry_run:
            store.delete_run(*whose)
    if not dry_run:
        history.remove(run)
    return size
