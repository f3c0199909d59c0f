"""Pods that come, write, read and go, as a program: `python -m tests.support.pods <root of a node>`.

A process of its own, for whoever has files open on a mount that nobody serves cannot start processes. Prints a line
for each pod that went, `failed: …` for what went wrong; ends when its standard input does.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from tests.support.node import OPTIONS, Place, VolumeOf

_PODS = 4
_AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
)
"""Upon these the kubelet asks again."""


def until_done(request: Callable[[], object], seconds: float = 90.0) -> None:
    """Ask as the kubelet does: again and again until it succeeds. Raises grpc.RpcError when it does not in time."""
    until = time.monotonic() + seconds
    while True:
        try:
            request()
            return
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            if error.code() not in _AGAIN or time.monotonic() > until:
                raise
        time.sleep(0.02)


def live(place: Place, number: int, stop: threading.Event) -> None:
    """One pod after the other."""
    while not stop.is_set():
        volume = VolumeOf(place, "tekton-internal-results", {})
        try:
            until_done(volume.publish)
            for turn in range(5):
                text = f"{number} {turn} " * 2000
                (volume.target / "report").write_text(text)
                assert (volume.target / "report").read_text() == text
            until_done(volume.unpublish)
            volume.gone()
        except (OSError, AssertionError, grpc.RpcError) as error:
            print(f"failed: {volume.volume_id}: {error!r}".replace("\n", " "), flush=True)
            return
        print(volume.volume_id, flush=True)


def main() -> None:
    """Run until standard input ends."""
    root = Path(sys.argv[1])
    stop = threading.Event()
    with grpc.insecure_channel(f"unix:{root}/csi.sock", options=OPTIONS) as channel:
        place = Place(root, channel)
        threads = [threading.Thread(target=live, args=(place, number, stop)) for number in range(_PODS)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
