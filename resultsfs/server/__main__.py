"""`python -m resultsfs.server --holder PATH`: serves the volumes of a holder. SIGTERM ends it and unmounts nothing."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from resultsfs import allocator
from resultsfs import settings as settings_module
from resultsfs.errors import ResultsError
from resultsfs.limits import raise_descriptors
from resultsfs.server import capabilities
from resultsfs.server.provider import Provider
from resultsfs.server.server import Server
from resultsfs.settings import Settings

log = logging.getLogger(__name__)


@click.command()
@click.option("--holder", required=True, type=click.Path(dir_okay=False), help="The socket of the holder.")
@click.option("--settings", "settings_file", type=click.Path(exists=True, dir_okay=False))
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Directory for what `.ref` reads.")
@click.option("--single", metavar="MOUNTPOINT", help="Serve this one volume, and end when it does.")
@click.option("--backs", is_flag=True, help="Register files for passthrough here (CAP_SYS_ADMIN), not by the holder.")
@click.option("--while-pid", type=int, help="End when this process does.")
def main(
    holder: str, settings_file: str | None, cache: Path | None, single: str | None, backs: bool, while_pid: int | None
) -> None:
    """Serve the volumes of the holder at HOLDER, all in one process."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    os.umask(0)
    raise_descriptors()
    allocator.share()
    try:
        settings = settings_module.load(settings_file) if settings_file else Settings()
        kept = capabilities.keep(*capabilities.NEEDED, *(("SYS_ADMIN",) if backs else ()))
        log.info("keeps the rights %s", ", ".join(kept) or "of its user alone")
        path = os.path.abspath(holder)
        server = Server(
            path, Provider(settings), cache or Path(path + ".cache"), single=single is not None, backs=backs
        )
    except ResultsError as error:
        raise click.ClickException(str(error)) from None

    def end(number: int, frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, end)
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's, which is the holder's to act upon
        signal.signal(number, signal.SIG_IGN if single is not None else end)
    if while_pid is not None:
        try:
            pidfd = os.pidfd_open(while_pid)
        except ProcessLookupError:
            raise click.ClickException(f"process {while_pid} is gone already") from None
        server.loop.watch(pidfd, server.loop.stop)
    server.run()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)  # what still runs is abandoned already, and its threads might wait for a store


if __name__ == "__main__":
    main()
