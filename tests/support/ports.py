"""Ports for servers that have to be told one."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

_FIRST, _LAST = 10_240, 20_480  # the second where the kernel gives even lower ones
_chance = random.Random(os.urandom(8))  # not the tests' own, which they may seed all alike


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives to connections and to who binds port 0.

    From those it gives one to somebody else at any moment before the server is there.
    """
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    probes: list[socket.socket] = []
    try:
        while len(probes) < count:
            probe = socket.socket()
            probes.append(probe)
            try:
                probe.bind((host, _chance.randrange(_FIRST, max(end, _LAST))))
            except OSError:
                probes.pop().close()
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
