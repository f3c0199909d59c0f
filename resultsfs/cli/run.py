"""`resultsfs run`: a Task or Pipeline on this machine."""

from __future__ import annotations

import functools
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from resultsfs import settings as settings_module
from resultsfs.cli import checks, options, tables
from resultsfs.cli.failures import BadInput
from resultsfs.cli.history import History, PastRun
from resultsfs.cli.places import runs_directory
from resultsfs.cli.progress import Progress
from resultsfs.cli.sources import MEMORY_LIMIT
from resultsfs.errors import InvalidDocument, StoreError
from resultsfs.local import documents, pod, report, runner, scratch, stock
from resultsfs.local.outcome import RunOutcome
from resultsfs.local.plan import Output, TaskRunOutcome, TaskRunPlan
from resultsfs.record import Mode
from resultsfs.resolve import StoredContent
from resultsfs.settings import Settings
from resultsfs.store import Store
from resultsfs.value import original


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A param; arrays and objects as JSON."
)
@click.option("--name", help="Which run, Pipeline or Task of the file, where it has several.")
@options.store_option
@options.settings_option
@click.option(
    "--results-from",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.TERMINATION_MESSAGE.value,
    show_default=True,
    help="How Tekton gathers results.",
)
@click.option("--stock", "is_stock", is_flag=True, help="As Tekton without resultsfs: see what would be lost.")
@options.transport_option
@options.format_option
def run(
    file: str,
    params: tuple[str, ...],
    name: str | None,
    store: str | None,
    settings_file: str | None,
    results_from: str,
    is_stock: bool,
    transport: str,
    form: str,
) -> None:
    """Run a Task, TaskRun, Pipeline or PipelineRun of FILE (- for stdin) on this machine.

    Steps run as processes, with their results on a mount as on a cluster; images are not run. Exits with 0
    only if the run succeeded, with 1 if it failed, with 2 if it cannot be run.
    """
    loaded = documents.load(_read(file), file)
    settings, used_store = options.opened_for_many(options.settings_from(settings_file, store))
    try:
        if not is_stock:
            _ask(settings)
        outcome = _run(
            loaded, settings, used_store, _params(params), name, Mode(results_from), is_stock, transport, form
        )
    finally:
        used_store.close()
    if outcome.status != "Succeeded":
        sys.exit(1)


def _read(file: str) -> bytes:
    try:
        if file == "-":
            return sys.stdin.buffer.read()
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidDocument(f"{file}: {error.strerror}") from None


def _ask(settings: Settings) -> None:
    """Refuse a store that cannot take content now, not after each TaskRun's spill-deadline."""
    try:
        checks.probed(settings)
    except StoreError as error:
        raise BadInput(
            f"nothing was run, for the store cannot be used: {error}; check the settings store and s3-*, the network "
            "and the credentials, and try `resultsfs doctor` with the same --store and --settings"
        ) from error


def _params(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r}: expected name=value", param_hint="-p")
        pairs.append((name, value))
    return pairs


def _run(
    loaded: documents.Documents,
    settings: Settings,
    store: Store,
    params: list[tuple[str, str]],
    name: str | None,
    mode: Mode,
    is_stock: bool,
    transport: str,
    form: str,
) -> RunOutcome:
    plans: dict[str, TaskRunPlan] = {}

    def execute(plan: TaskRunPlan, output: Output, cancellation: pod.Cancellation) -> TaskRunOutcome:
        plans[plan.name] = plan
        return pod.execute(plan, output, cancellation=cancellation, transport=transport)

    started = time.time()
    with scratch.Directory() as room, _cancelled_by_signals() as cancellation:
        machine = runner.Machine(
            execute=functools.partial(execute, cancellation=cancellation),
            content=lambda namespace: StoredContent(store, namespace),
            room=room,
            settings=settings,
            mode=mode,
            stock=is_stock,
        )
        observer = Progress(Console(stderr=True, highlight=False))
        outcome = runner.run(loaded, machine, params=params, name=name, observer=observer)
    _keep(PastRun(outcome, started, time.time(), settings_module.to_mapping(settings)))
    if form == "json":
        click.echo(json.dumps(report.as_object(outcome), ensure_ascii=False))
        return outcome
    out = tables.console()
    out.print()
    tables.show_results(out, outcome, store)
    tables.show_skipped(out, outcome)
    if not is_stock:
        tables.show_verdicts(out, _verdicts(outcome, plans, store))
    tables.show_end(out, outcome)
    return outcome


@contextmanager
def _cancelled_by_signals() -> Iterator[pod.Cancellation]:
    """Ctrl-C and SIGTERM cancel the run's TaskRuns, so that their mounts and processes go with them."""
    with pod.Cancellation() as cancellation:

        def cancel(number: int, frame: FrameType | None) -> None:
            cancellation.cancel()

        before = {number: signal.signal(number, cancel) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield cancellation
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _keep(run: PastRun) -> None:
    try:
        History(runs_directory()).add(run)
    except OSError as error:
        click.echo(f"resultsfs: this run is not recorded: {error}", err=True)


def _verdicts(outcome: RunOutcome, plans: dict[str, TaskRunPlan], store: Store) -> dict[str, stock.Verdict]:
    content = StoredContent(store, outcome.namespace)
    verdicts = {}
    labels = tables.task_labels(outcome)
    for task_run in outcome.task_runs:
        if task_run.name not in plans:
            continue
        try:
            verdict = stock.verdict(
                plans[task_run.name],
                task_run.results,
                lambda result: original(result.value, content, f"result {result.name}", MEMORY_LIMIT),
            )
        except StoreError as error:
            click.echo(f"resultsfs: {task_run.name}: what plain Tekton would have done is not known: {error}", err=True)
            continue
        if verdict is not None:
            verdicts[labels[task_run.name]] = verdict
    return verdicts
