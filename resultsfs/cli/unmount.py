"""`resultsfs unmount`: takes a mount off, dead or alive."""

from __future__ import annotations

import click

from resultsfs import mounting


@click.command()
@click.argument("mountpoint", type=click.Path())
@click.option("--lazy", is_flag=True, help="Detach it at once, though processes still use it.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=10.0, show_default=True, help="Seconds for users to end."
)
def unmount(mountpoint: str, lazy: bool, timeout: float) -> None:
    """Unmount MOUNTPOINT, also when its daemon is dead ("transport endpoint is not connected").

    Files stay in the spool: mounting with it again takes the volume up as it was.
    """
    click.echo(f"{mounting.unmount(mountpoint, lazy=lazy, timeout=timeout)} is unmounted.")
