"""Mounts and serves one volume in one process: `python -m resultsfs.kernel.serve`. What dies takes the mount along."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from pathlib import Path

import click

from resultsfs import settings as settings_module
from resultsfs.collector import ByExecutable, ByParent, Identify, nobody
from resultsfs.errors import ResultsError
from resultsfs.kernel import native
from resultsfs.record import VolumeRecord
from resultsfs.service import Service
from resultsfs.settings import Settings
from resultsfs.transport import AUTO, NATIVE, TRANSPORTS, chosen

__all__ = ["Service"]


@click.command()
@click.option("--record", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--spool", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--mountpoint", required=True, type=click.Path(file_okay=False))
@click.option("--settings", "settings_file", type=click.Path(exists=True, dir_okay=False))
@click.option("--ready-fd", type=int, help="Gets `ready` and a newline when the mount answers.")
@click.option("--collector-parent", type=int, help="Children of this process are collectors.")
@click.option("--collector-exe", multiple=True, type=click.Path(), help="Processes that run this file are collectors.")
@click.option("--allow-other/--no-allow-other", default=True)
@click.option("--transport", type=click.Choice(TRANSPORTS), default=AUTO, show_default=True)
def main(
    record: Path,
    spool: Path,
    mountpoint: str,
    settings_file: str | None,
    ready_fd: int | None,
    collector_parent: int | None,
    collector_exe: tuple[str, ...],
    allow_other: bool,
    transport: str,
) -> None:
    """Serve one volume at MOUNTPOINT until it is unmounted or SIGTERM comes."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    identify: Identify = nobody
    if collector_parent is not None:
        identify = ByParent(collector_parent)
    elif collector_exe:
        identify = ByExecutable(*collector_exe)

    def ready() -> None:
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")
            os.close(ready_fd)

    try:
        settings = settings_module.load(settings_file) if settings_file else Settings()
        volume = VolumeRecord.from_json(record.read_text(encoding="utf-8"))
        if chosen(transport) == NATIVE:
            with closing(Service(volume, spool, settings, identify, native.caller)) as service:
                native.serve(service.filesystem, identify, volume.results, mountpoint, ready, allow_other=allow_other)
        else:
            from resultsfs.kernel import fusepy  # needs libfuse, which the native session does without

            with closing(Service(volume, spool, settings, identify, fusepy.caller)) as service:
                fusepy.serve(service.filesystem, mountpoint, ready, allow_other=allow_other)
    except ResultsError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
