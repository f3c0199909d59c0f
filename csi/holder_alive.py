"""Whether the holder answers: what the kubelet runs again and again in the holder's own container, so it loads little."""

from __future__ import annotations

from resultsfs.errors import InvalidMessage
from resultsfs.holder.channel import connect
from resultsfs.holder.messages import End, Failed, List


def held(socket: str, seconds: float) -> int:
    """How many volumes the holder at a socket lists; it may take so many seconds for each.

    Raises HolderGone when it is not there or does not answer in time, InvalidMessage.
    """
    channel = connect(socket, seconds)
    try:
        channel.send(List())
        count = 0
        while not isinstance(message := channel.receive()[0], End):
            if isinstance(message, Failed):
                raise InvalidMessage(f"the holder cannot list its volumes: {message.error}", message.errno)
            count += 1
        return count
    finally:
        channel.close()
