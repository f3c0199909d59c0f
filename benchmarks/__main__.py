"""`python -m benchmarks`: measure, print tables, write JSON. See docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from benchmarks import contenders, machine, report, suite, targets
from benchmarks.sampling import Recorder
from benchmarks.scale import FULL, QUICK


@click.command()
@click.option("--quick", is_flag=True, help="Smaller streams, fewer repetitions: a minute or two.")
@click.option("--only", multiple=True, type=click.Choice(suite.GROUPS), help="This group; can be repeated.")
@click.option(
    "--contender", "chosen", multiple=True, type=click.Choice(contenders.names()), help="This column; can be repeated."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all samples here, as JSON. Default: bench-results/<time>.json.",
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Work in a directory here: it decides which disk is measured. Default: the directory for temporary files.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 when a target is missed or was not measured.")
def main(
    quick: bool,
    only: tuple[str, ...],
    chosen: tuple[str, ...],
    output: Path | None,
    directory: Path | None,
    strict: bool,
) -> None:
    """Measure resultsfs beside a plain directory on the same disk, rclone mount, s3fs-fuse and s3fs itself."""
    if not os.path.exists("/dev/fuse"):
        raise click.ClickException("there is no /dev/fuse: nothing can be mounted here")
    scale = QUICK if quick else FULL
    columns = chosen or tuple(contenders.names())
    parent = directory or Path(tempfile.gettempdir())
    console = Console(width=None if os.isatty(1) else 160)
    progress = Console(stderr=True)
    facts = machine.describe(parent)
    recorder = Recorder(lambda text: progress.print(f"measuring {text}", highlight=False))
    began = time.monotonic()
    signal.signal(signal.SIGTERM, _end)  # so that mounts and servers end with us
    try:
        suite.run(scale, only or suite.GROUPS, columns, parent, recorder)
    except (OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    judged = targets.judge(contenders.ours(columns), scale, recorder)
    report.show(console, facts, recorder, judged)
    remark = targets.note(scale)
    if remark is not None:
        console.print(remark)
    file = output or Path("bench-results", time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime()))
    values = report.to_dict(facts, scale.name, recorder, judged, time.monotonic() - began)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"all samples: {file}", markup=False, highlight=False)
    if strict and not all(target.reached for target in judged):
        raise SystemExit(1)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
