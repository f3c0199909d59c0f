"""Commands that other packages add (entry points `resultsfs.commands`), loaded when they are asked for."""

from __future__ import annotations

import importlib.metadata

import click

from resultsfs.cli.failures import Commands, Failure

COMMANDS = "resultsfs.commands"
NEEDS = "Needs more: pip install 'resultsfs[controller]'."


class Extensible(Commands):
    """A group with its own commands first, then those of others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        others = (found.name for found in importlib.metadata.entry_points(group=COMMANDS))
        return list(dict.fromkeys((*super().list_commands(ctx), *others)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command of that name; one whose package lacks something says so when it is called."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for found in importlib.metadata.entry_points(group=COMMANDS, name=cmd_name):
            try:
                command: click.Command = found.load()
            except ImportError as error:
                return _unavailable(cmd_name, str(error))
            return command
        return None


def _unavailable(name: str, reason: str) -> click.Command:
    def fail() -> None:
        raise Failure(f"{name}: pip install 'resultsfs[controller]' ({reason})")

    return click.Command(name, callback=fail, help=NEEDS, context_settings={"ignore_unknown_options": True})
