"""`resultsfs completion`: what a shell needs to complete commands, options and names of runs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "resultsfs"
VARIABLE = "_RESULTSFS_COMPLETE"

_HINTS = {
    "bash": 'eval "$(resultsfs completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(resultsfs completion zsh)"   # in ~/.zshrc, after compinit',
    "fish": "resultsfs completion fish | source   # in ~/.config/fish/config.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_HINTS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(ctx.find_root().command, {}, PROGRAM, VARIABLE)
    click.echo(f"# {_HINTS[shell]}")
    # not source(): for bash that asks the bash at hand for its version, which need not be the user's
    click.echo(kind.source_template % made.source_vars())
