"""`resultsfs doctor`: what this machine lacks, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
import sys

import click
from rich.text import Text

from resultsfs.cli import checks, options, tables
from resultsfs.cli.checks import Level
from resultsfs.cli.places import state_directory

_MARKS = {Level.OK: ("ok  ", "green"), Level.WARN: ("warn", "yellow"), Level.FAIL: ("FAIL", "bold red")}


@click.command()
@options.store_option
@options.settings_option
@options.format_option
def doctor(store: str | None, settings_file: str | None, form: str) -> None:
    """Check device, libfuse, kernel, namespaces, memory, disk, store and clock.

    Exits with 1 if something is missing without which mounts or runs do not work.
    """
    settings = options.settings_from(settings_file, store)
    out = tables.console()
    found = []
    for check in checks.all_checks(settings, state_directory()):
        found.append(check)
        if form == "table":
            out.print(Text.assemble(_MARKS[check.level], f"  {check.name:<11} {check.found}"), soft_wrap=True)
            if check.advice:
                out.print(Text(f"                  {check.advice}", "dim"), soft_wrap=True)
    if form == "json":
        click.echo(json.dumps([dataclasses.asdict(check) for check in found], ensure_ascii=False))
    if any(check.level is Level.FAIL for check in found):
        sys.exit(1)
