"""`resultsfs get`: a result's content, verified."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from typing import IO

import click
import jsonpath
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from resultsfs.cli import clusters, options, sources
from resultsfs.cli.failures import BadInput, Failure
from resultsfs.cli.listing import complete_run
from resultsfs.cli.output import opened
from resultsfs.cli.sources import Named
from resultsfs.store import Store


@click.command(cls=options.TargetCommand)
@click.argument("target", metavar="REFERENCE | RUN RESULT", shell_complete=complete_run)
@click.argument("result", required=False, metavar="")
@options.namespace_option
@options.store_option
@options.settings_option
@clusters.cluster_options
@click.option(
    "-o", "--output", "path", metavar="FILE", help="Write to FILE, whole or not at all. Default, and `-`: stdout."
)
@click.option(
    "--jsonpath", "query", metavar="EXPR", help="Only what matches (RFC 9535): a line each, strings as they are."
)
def get(
    target: str,
    result: str | None,
    namespace: str | None,
    store: str | None,
    settings_file: str | None,
    kubeconfig: str | None,
    context: str | None,
    api: str | None,
    ca: str | None,
    path: str | None,
    query: str | None,
) -> None:
    """Write the content of a reference, or of RESULT of RUN (TASK/RESULT where several tasks have one).

    With -n NAMESPACE (or --context), RUN is a cluster's: taskrun/NAME, pipelinerun/NAME or customrun/NAME.

    What was spilled is proven by its SHA-256: content that does not match never ends like content that does.
    """
    if path == "":
        raise BadInput("--output is empty: name a file, or - for stdout")
    cluster = clusters.Cluster(namespace, kubeconfig, context, api, ca, settings_file, store)
    if clusters.wanted(target, cluster):
        with contextlib.closing(clusters.reader(target, cluster)) as reader:
            chunks, size = reader.content(clusters.required(result, target))
            _write(chunks, size, f"{target} {result}", path, query)
        return
    item = sources.named(target, result, namespace, settings_file, store)
    with contextlib.closing(Store.open(item.settings)) as used:
        chunks, size = sources.content(item, used)
        _write(chunks if query is not None else _checked(chunks, item), size, item.label, path, query)


def _write(chunks: Iterator[bytes], size: int, label: str, path: str | None, query: str | None) -> None:
    """Write content, or what matches a query in it, to stdout or into a file."""
    if query is not None:
        data = _matches(sources.whole(chunks, size, label), query, label)
        chunks, size = iter([data]), len(data)
    if path is None or path == "-":
        _copy(chunks, sys.stdout.buffer, size, label, show=not sys.stdout.isatty())
        sys.stdout.buffer.flush()
    else:
        with opened(path) as file:
            _copy(chunks, file, size, label, show=True)


def _checked(chunks: Iterator[bytes], item: Named) -> Iterator[bytes]:
    """Pass content on; where status could not hold what the step wrote, say so at the end."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    result = item.result
    if result is not None and not result.spilled and digest.hexdigest() != result.sha256:
        click.echo(
            f"resultsfs: {item.label} is what Tekton's status holds, not byte for byte what the step wrote "
            f"(sha256 {result.sha256})",
            err=True,
        )


def _copy(chunks: Iterable[bytes], file: IO[bytes], size: int, label: str, *, show: bool) -> None:
    """Copy, with a bar where a person looks at stderr and the content goes elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(
        *columns,
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (show and console.is_terminal),
    ) as progress:
        task = progress.add_task(label[-40:], total=size)
        for chunk in chunks:
            file.write(chunk)
            progress.advance(task, len(chunk))


def _matches(data: bytes, query: str, label: str) -> bytes:
    try:
        path = jsonpath.compile(query)
    except jsonpath.JSONPathError as error:
        raise BadInput(f"--jsonpath {query!r}: {error}") from None
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Failure(f"{label} is not JSON: {error}") from None
    try:
        found = path.findall(tree)
    except jsonpath.JSONPathError as error:
        raise Failure(f"--jsonpath {query!r}: {error}") from None
    if not found:
        raise Failure(f"nothing in {label} matches --jsonpath {query!r}")
    lines = (match if isinstance(match, str) else json.dumps(match, ensure_ascii=False) for match in found)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
