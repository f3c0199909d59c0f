"""The command `resultsfs`: one module a command."""

from __future__ import annotations

import logging

import click

from resultsfs import __version__
from resultsfs.cli.completion import PROGRAM, VARIABLE, completion
from resultsfs.cli.delete import delete
from resultsfs.cli.doctor import doctor
from resultsfs.cli.failures import end_cleanly_on_terminate
from resultsfs.cli.get import get
from resultsfs.cli.listing import list_
from resultsfs.cli.mount import mount
from resultsfs.cli.plugins import Extensible
from resultsfs.cli.run import run
from resultsfs.cli.stat import stat
from resultsfs.cli.unmount import unmount


@click.group(cls=Extensible, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=PROGRAM)
def commands() -> None:
    """A filesystem for Tekton results: small ones stay in status, large ones go to object storage."""


for _command in (run, list_, get, stat, delete, mount, unmount, doctor, completion):
    commands.add_command(_command)


def main(program: str = PROGRAM, plugin: str | None = None) -> None:
    """The program; `plugin` where it was called as another's (see `clusters.PLUGIN`)."""
    logging.basicConfig(format="resultsfs: %(message)s", level=logging.WARNING)
    end_cleanly_on_terminate()
    commands.main(prog_name=program, complete_var=VARIABLE, obj=plugin)
