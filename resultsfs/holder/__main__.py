"""`python -m resultsfs.holder --socket PATH`: the holder of a node.

SIGTERM ends it and unmounts nothing: servers keep what they serve, and give it back to the next holder at the socket.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from resultsfs.errors import ResultsError
from resultsfs.holder import handover
from resultsfs.holder.held import Records
from resultsfs.holder.holder import Holder
from resultsfs.holder.loop import Loop
from resultsfs.limits import raise_descriptors


def main() -> int:
    """Hold volumes until SIGTERM, or until another holder has taken over; the exit code."""
    parser = argparse.ArgumentParser(prog="resultsfs.holder", description=main.__doc__)
    parser.add_argument("--socket", required=True, type=os.path.abspath, help="where servers and clients find it")
    parser.add_argument("--state", type=Path, help="directory of its records (default: beside the socket)")
    parser.add_argument("--hand-over", action="store_true", help="take everything from the holder that listens there")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    raise_descriptors()
    path: str = options.socket
    loop = Loop()
    try:
        records = Records(options.state or Path(path + ".volumes"))
        listener, found = handover.open_at(path, replace=options.hand_over)
        holder = handover.take(loop, path, records) if listener is None else Holder(loop, listener, records)
    except (ResultsError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    holder.hand_over = lambda channel: handover.give(holder, channel)
    logging.getLogger(__name__).info("listens at %s (%s)", path, found)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
