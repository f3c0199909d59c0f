"""`python -m resultsfs.holder.single`: one volume, by a holder that keeps a server running. For `resultsfs mount` and `run`.

Either process may be killed and the mount goes on. SIGTERM unmounts and ends both; so does an unmount by others.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from resultsfs.errors import ResultsError
from resultsfs.holder import handover
from resultsfs.holder.held import Held, Records
from resultsfs.holder.holder import Holder
from resultsfs.holder.loop import Loop
from resultsfs.holder.messages import Volume
from resultsfs.holder.supervisor import Supervisor
from resultsfs.limits import raise_descriptors
from resultsfs.record import VolumeRecord

PATIENCE = 20.0
"""Seconds for the server to end."""
log = logging.getLogger(__name__)


class Single:
    """One volume from its mounting to its end."""

    def __init__(self, loop: Loop, holder: Holder, volume: Volume, command: list[str], ready: int | None) -> None:
        self._loop = loop
        self._holder = holder
        self._volume = volume
        self._ready = ready
        self._server = Supervisor(loop, command, self._died)
        self._server.ended = loop.stop
        self._was_ready = self._ending = False
        self.code = 0
        holder.changed = self._changed

    def start(self) -> None:
        """Start the server and mount. Raises OSError."""
        self._server.start()
        self._holder.mount(self._volume)

    @property
    def _held(self) -> Held | None:
        return self._holder.volumes.get(self._volume.volume_id)

    def _changed(self) -> None:
        held = self._held
        if held is not None and held.ready:
            self._server.serves()
        if held is not None and held.ready and not self._was_ready:
            self._was_ready = True
            if self._ready is not None:
                os.write(self._ready, b"ready\n")
                os.close(self._ready)
        if held is None or held.dead:
            if not self._was_ready and not self._ending:
                self.code = 1
                print(f"Error: {self._holder.failure or 'the mount is gone'}", file=sys.stderr)
            self._finish()

    def _died(self, code: int) -> bool:
        if not self._was_ready:  # a second one would fare no better
            self.code = 1
            print(f"Error: the server ended with {code} before the mount answered", file=sys.stderr)
            self.end()
            return False
        return True

    def end(self) -> None:
        """Unmount, then end the server and the loop."""
        held = self._held
        self._ending = True
        if held is None or held.dead:
            self._finish()
        elif not held.leaving:
            self._holder.take_off(held)

    def _finish(self) -> None:
        self._ending = True
        self._server.ended = self._loop.stop
        self._server.end(PATIENCE)


def _volume(options: argparse.Namespace) -> Volume:
    record = options.record.read_text(encoding="utf-8")
    return Volume(
        VolumeRecord.from_json(record).volume_id,
        options.mountpoint,
        os.path.abspath(options.spool),
        record,
        options.settings.read_text(encoding="utf-8") if options.settings else "",
        tuple(options.collector_exe),
        options.collector_parent,
        not options.no_allow_other,
    )


def main() -> int:
    """Serve one volume until it is unmounted or SIGTERM comes; the exit code."""
    parser = argparse.ArgumentParser(prog="resultsfs.holder.single", description=main.__doc__)
    parser.add_argument("--record", required=True, type=Path)
    parser.add_argument("--spool", required=True)
    parser.add_argument("--mountpoint", required=True)
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--ready-fd", type=int, help="gets `ready` and a newline when the mount answers")
    parser.add_argument("--collector-parent", type=int, default=0, help="children of this process are collectors")
    parser.add_argument("--collector-exe", action="append", default=[], help="processes that run this are collectors")
    parser.add_argument("--no-allow-other", action="store_true", help="the mount is for this user alone")
    parser.add_argument("--while-pid", type=int, help="the server ends with this process, whatever becomes of us")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    raise_descriptors()
    if options.ready_fd is not None:
        os.set_inheritable(options.ready_fd, False)
    loop = Loop()
    try:
        os.makedirs(options.spool, mode=0o700, exist_ok=True)
        volume = _volume(options)
        path = os.path.join(volume.spool, "holder.sock")
        records = Records(Path(volume.spool) / "holder")
        records.drop(volume.volume_id)  # a predecessor's mount is not this one
        listener, _ = handover.open_at(path, replace=False)
        assert listener is not None
        ours = os.stat(path)
        holder = Holder(loop, listener, records)
        command = [sys.executable, "-P", "-m", "resultsfs.server", "--holder", path, "--single", volume.mountpoint]
        command += ["--backs", "--cache", os.path.join(volume.spool, "cache")]
        if options.while_pid is not None:
            command += ["--while-pid", str(options.while_pid)]
        single = Single(loop, holder, volume, command, options.ready_fd)

        def end(number: int, frame: FrameType | None) -> None:
            loop.post(single.end)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, end)
        single.start()
    except (ResultsError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    loop.run()
    with suppress(FileNotFoundError):  # the spool was removed underneath
        if os.path.samestat(os.stat(path), ours):  # else the next holder of this spool listens there
            os.unlink(path)
    return single.code


if __name__ == "__main__":
    sys.exit(main())
