"""`resultsfs mount`: one volume at a directory of this machine."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID, uuid4

import click

from resultsfs import mountinfo, mounting
from resultsfs.cli import options
from resultsfs.cli.failures import BadInput
from resultsfs.cli.places import spool_for
from resultsfs.errors import InvalidRecord
from resultsfs.record import Keep, Mode, ResultType, VolumeRecord
from resultsfs.settings import Settings


@click.command()
@click.argument("mountpoint", type=click.Path(file_okay=False))
@click.option("--results", metavar="A,B,C", help="Declared results, in order. Needed for a fresh spool.")
@click.option("--type", "types", multiple=True, metavar="NAME=TYPE", help="A result's type, if it is array or object.")
@click.option("--kept-inline", metavar="A,B", help="Results that are never spilled, as those that `when` uses.")
@click.option("-n", "--namespace", help='Whose content it is.  [default: "default"]')
@click.option("--taskrun", help='Name of the TaskRun.  [default: "mount"]')
@click.option("--run-uid", type=click.UUID, help="UID of the run that owns the content.  [default: a new one]")
@click.option(
    "--containers", type=click.IntRange(min=1), help="Containers and init containers of the pod.  [default: 1]"
)
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), help="How Tekton gathers results.")
@click.option("--max-result-size", type=int, help="Tekton's setting, in bytes, for sidecar-logs.  [default: 4096]")
@click.option(
    "--collector",
    "collectors",
    multiple=True,
    metavar="EXE",
    type=click.Path(exists=True, dir_okay=False),
    help="Processes that run this file read publications, all others the full content. May be repeated.",
)
@click.option("--spool", type=click.Path(file_okay=False, path_type=Path), help="Directory for the files themselves.")
@options.store_option
@options.settings_option
@options.transport_option
@click.option("--foreground", is_flag=True, help="Serve until Ctrl-C instead of in the background.")
def mount(
    mountpoint: str,
    spool: Path | None,
    store: str | None,
    settings_file: str | None,
    collectors: tuple[str, ...],
    transport: str,
    foreground: bool,
    **given: Any,
) -> None:
    """Mount a volume at MOUNTPOINT, and return when it answers.

    Its files lie in the spool and survive an unmount or a crash: mounting with the same spool takes the volume
    up again, as it was.
    """
    mountpoint = mountinfo.canonical(mountpoint)
    directory = (spool or spool_for(mountpoint)).absolute()
    wanted = {field: value for field, value in _fields(given).items() if value is not None}
    earlier = mounting.kept(directory)
    if earlier is None:
        record, settings = _fresh(wanted), options.settings_from(settings_file, store)
    else:
        record, settings = _taken_up(directory, earlier, wanted, settings_file, store)
    settings, _ = options.opened_for_many(settings)
    if earlier is not None and settings.store != earlier[1].store:
        raise InvalidRecord(
            f"spool {directory} belongs to the store {earlier[1].store}, not to {settings.store}: choose another --spool"
        )
    executables = tuple(os.path.abspath(path) for path in collectors)
    request = mounting.MountRequest(mountpoint, directory, record, settings, executables, transport)
    if foreground:
        sys.exit(_serve(request))
    mounting.start(request, tell=_note)
    _tell(request, taken_up=earlier is not None)


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """The options as fields of a record; what was not given is None."""
    kept = given["kept_inline"]
    return {
        "results": _names(given["results"]),
        "types": dict(_type(text) for text in given["types"]) or None,
        "kept": None if kept is None else dict.fromkeys(_names(kept) or (), Keep.INLINE),
        "namespace": given["namespace"],
        "taskrun": given["taskrun"],
        "run_uid": given["run_uid"],
        "containers": given["containers"],
        "mode": None if given["mode"] is None else Mode(given["mode"]),
        "max_result_size": given["max_result_size"],
    }


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _type(text: str) -> tuple[str, ResultType]:
    name, _, kind = text.partition("=")
    try:
        return name, ResultType(kind)
    except ValueError:
        allowed = ", ".join(ResultType)
        raise BadInput(f"--type {text!r}: expected NAME=TYPE with a type out of {allowed}") from None


def _fresh(wanted: dict[str, Any]) -> VolumeRecord:
    if "results" not in wanted:
        raise click.UsageError("--results is missing: name the declared results, for example --results report,digest")
    pod_uid = uuid4()
    run_uid: UUID = wanted.get("run_uid") or uuid4()
    defaults = {"namespace": "default", "taskrun": "mount"}
    names = {"volume_id": f"mount-{pod_uid}", "pod_uid": pod_uid, "run_uid": run_uid}
    return VolumeRecord(**{**defaults, **names, "run_name": wanted.get("taskrun", "mount"), **wanted})


def _taken_up(
    spool: Path,
    earlier: tuple[VolumeRecord, Settings],
    wanted: dict[str, Any],
    settings_file: str | None,
    store: str | None,
) -> tuple[VolumeRecord, Settings]:
    """The volume as it was; options may repeat what it is, not change it. Settings may change."""
    record, settings = earlier
    for field, value in wanted.items():
        if getattr(record, field) != value:
            option = (
                "--kept-inline" if field == "kept" else "--type" if field == "types" else f"--{field}".replace("_", "-")
            )
            raise InvalidRecord(
                f"spool {spool} holds a volume with {field.replace('_', ' ')} {_shown(getattr(record, field))}, and {option} "
                f"says {_shown(value)}: leave the option out, or choose another --spool"
            )
    if settings_file is not None:
        changed = options.settings_from(settings_file, store)
        return record, changed if changed.store else dataclasses.replace(changed, store=settings.store)
    return record, settings if store is None else dataclasses.replace(settings, store=store)


def _shown(value: Any) -> str:
    return ",".join(value) or "none" if isinstance(value, tuple | dict) else str(value)


def _serve(request: mounting.MountRequest) -> int:
    """Serve in the foreground; the daemon's exit code."""
    process = mounting.start(request, foreground=True, tell=_note)

    def end(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM)

    # a terminal's Ctrl-C reaches the daemon as well; asking it twice does no harm
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    _tell(request, taken_up=False, foreground=True)
    return _code(process)


def _note(text: str) -> None:
    click.echo(text, err=True)


def _code(process: subprocess.Popen[bytes]) -> int:
    code = process.wait()
    return code if code >= 0 else 128 - code


def _tell(request: mounting.MountRequest, *, taken_up: bool, foreground: bool = False) -> None:
    record = request.record
    again = " again, as it was left" if taken_up else ""
    lines = [f"{request.mountpoint} holds the results {', '.join(record.results) or '(none)'}{again}."]
    lines.append(f"  spool    {request.spool}")
    lines.append(f"  store    {request.settings.store}, as {record.namespace}/{record.run_uid}")
    if not foreground:
        lines.append(f"  log      {request.log}")
        lines.append(f"  unmount  {shlex.join(['resultsfs', 'unmount', request.mountpoint])}")
    click.echo("\n".join(lines))
