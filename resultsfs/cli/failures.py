"""Errors as the command tells them: one line on stderr, an exit code, never a traceback for what was foreseen.

Exit codes: 0 for success, 1 when something failed (a run, the store, a mount), 2 for bad input.
"""

from __future__ import annotations

import errno
import signal
from types import FrameType
from typing import IO, Any, NoReturn

import click

from resultsfs.errors import (
    InvalidDocument,
    InvalidKey,
    InvalidRecord,
    InvalidReference,
    InvalidSetting,
    ResultsError,
)

BAD_INPUT = (InvalidDocument, InvalidKey, InvalidRecord, InvalidReference, InvalidSetting)


class Failure(click.ClickException):
    """Ends the command with one line on stderr and exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line; what other libraries say on several becomes one."""
        line = " ".join(line.strip() for line in self.message.splitlines())
        click.echo(f"resultsfs: {line}", file=file, err=file is None)


class BadInput(Failure):
    """A failure that is the caller's to mend: exit code 2."""

    exit_code = 2


def failure(error: OSError) -> Failure:
    """What an error of ours, or of the system, comes to."""
    if isinstance(error, ResultsError):
        return BadInput(error.message) if isinstance(error, BAD_INPUT) else Failure(error.message)
    return Failure(f"{error.filename}: {error.strerror}" if error.filename is not None else str(error))


class Commands(click.Group):
    """A group whose commands fail with `Failure`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; OSErrors, ours among them, become `Failure`s."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output has had enough; click ends quietly
                raise
            raise failure(error) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they were added, not by alphabet."""
        return list(self.commands)


def end_cleanly_on_terminate() -> None:
    """Let SIGTERM unwind like an error, so that nothing unfinished is left behind."""

    def ended(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, ended)
