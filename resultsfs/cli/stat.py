"""`resultsfs stat`: what is known of a result, without reading it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import click
from rich.text import Text

from resultsfs.cli import clusters, options, sources, tables
from resultsfs.cli.listing import complete_run
from resultsfs.cli.sources import Named
from resultsfs.store import Key, Store
from resultsfs.units import format_size
from resultsfs.value import references


@click.command(cls=options.TargetCommand)
@click.argument("target", metavar="REFERENCE | RUN RESULT", shell_complete=complete_run)
@click.argument("result", required=False, metavar="")
@options.namespace_option
@options.store_option
@options.settings_option
@clusters.cluster_options
@options.format_option
def stat(
    target: str,
    result: str | None,
    namespace: str | None,
    store: str | None,
    settings_file: str | None,
    kubeconfig: str | None,
    context: str | None,
    api: str | None,
    ca: str | None,
    form: str,
) -> None:
    """Tell size, SHA-256, type and place of a reference, or of RESULT of RUN, and whether it is still there.

    With -n NAMESPACE (or --context), RUN is a cluster's: taskrun/NAME, pipelinerun/NAME or customrun/NAME.
    """
    cluster = clusters.Cluster(namespace, kubeconfig, context, api, ca, settings_file, store)
    if clusters.wanted(target, cluster):
        with contextlib.closing(clusters.reader(target, cluster)) as reader:
            _show(reader.facts(clusters.required(result, target)), f"{target} {result}", form)
        return
    item = sources.named(target, result, namespace, settings_file, store)
    opened = Store.open(item.settings)
    try:
        facts = _facts(item, opened)
    finally:
        opened.close()
    _show(facts, item.label, form)


def _show(facts: dict[str, Any], label: str, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    out = tables.console()
    out.print(Text(label, "bold"), soft_wrap=True)
    rows = {
        "size": "not known" if facts["size"] is None else f"{facts['size']} bytes ({format_size(facts['size'])})",
        "sha256": facts["sha256"] or "not known",
        "type": facts["type"] or "not known: the type belongs to a run's result",
        "spilled": "yes" if facts["spilled"] else "no: it is in the run's status",
    }
    for name, value in rows.items():
        out.print(Text(f"  {name:<8} {value}"), soft_wrap=True)
    for place in facts["locations"]:
        out.print(Text(f"  {'lies at':<8} {place}"), soft_wrap=True)


def _facts(item: Named, store: Store) -> dict[str, Any]:
    """What there is to know; asks the store for every content, so that a missing one is an error."""
    found = references(item.value)
    sizes = [store.size(Key.of(item.namespace, reference)) for reference in found]
    result = item.result
    return {
        "name": item.label,
        "namespace": item.namespace,
        "type": None if result is None else result.type.value,
        "size": sizes[0] if result is None else result.size,
        "sha256": found[0].sha256 if result is None else result.sha256,
        "spilled": bool(found) if result is None else result.spilled,
        "value": item.value,
        "locations": [store.location(Key.of(item.namespace, reference)) for reference in found],
    }
