"""The node's network: one pair of interfaces between the host and the node, and a /16 that is routed through it.

The route on the host is also the claim: no two clusters get the same /16. Nothing is translated on the host, so pods
reach the host and each other, and nothing beyond.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

from tests.cluster.machine import records
from tests.cluster.machine.errors import ClusterError
from tests.cluster.machine.places import Places
from tests.cluster.machine.running import run

NODE_INTERFACE = "eth0"
_CANDIDATES = [
    *IPv4Network("10.128.0.0/9").subnets(new_prefix=16),
    *IPv4Network("100.64.0.0/10").subnets(new_prefix=16),
    *IPv4Network("172.16.0.0/12").subnets(new_prefix=16),
]


@dataclass(frozen=True)
class Network:
    """The addresses of one cluster, all in one /16."""

    cidr: IPv4Network

    @property
    def pods(self) -> IPv4Network:
        """The addresses of pods: the lower half."""
        return next(self.cidr.subnets(new_prefix=17))

    @property
    def services(self) -> IPv4Network:
        """The addresses of services."""
        return list(self.cidr.subnets(new_prefix=18))[2]

    @property
    def api_service(self) -> str:
        """The address of the service `kubernetes`: the first, by the API server's rule."""
        return str(self.services[1])

    @property
    def host(self) -> str:
        """The host, as the node and pods reach it."""
        return str(self.cidr[-3])

    @property
    def node(self) -> str:
        """The node, as the host and pods reach it."""
        return str(self.cidr[-2])


def read(places: Places) -> Network | None:
    """The addresses that the cluster has; None if it has none."""
    record = records.read(places.network_record, "cidr")
    return None if record is None else Network(IPv4Network(record["cidr"]))


def claim(places: Places, pid: int) -> Network:
    """Connect the network namespace of process `pid` with the host. Raises ClusterError when no /16 is free."""
    release(places)
    run(["ip", "link", "add", places.link, "type", "veth", "peer", "name", NODE_INTERFACE, "netns", str(pid)])
    run(["ip", "link", "set", places.link, "up"])
    inside = ["nsenter", "--target", str(pid), "--net", "ip"]
    run([*inside, "link", "set", "lo", "up"])
    run([*inside, "link", "set", NODE_INTERFACE, "up"])
    for cidr in _candidates(places):
        network = Network(cidr)
        run(["ip", "address", "add", f"{network.host}/30", "dev", places.link])
        try:
            run(["ip", "route", "add", str(cidr), "via", network.node, "dev", places.link])
        except ClusterError as error:
            if "File exists" not in str(error):
                raise
            run(["ip", "address", "flush", "dev", places.link])
            continue
        run([*inside, "address", "add", f"{network.node}/30", "dev", NODE_INTERFACE])
        # What connects to a service needs a route before kube-proxy's rules name the pod to go to instead.
        run([*inside, "route", "add", str(network.services), "dev", "lo", "src", network.node])
        records.write(places.network_record, {"cidr": str(cidr)})
        return network
    raise ClusterError("no /16 of 10.128.0.0/9, 100.64.0.0/10 and 172.16.0.0/12 is free of routes: see `ip route`")


def _candidates(places: Places) -> Iterator[IPv4Network]:
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    taken = [IPv4Network(route["dst"]) for route in routes if route["dst"] != "default"]
    first = zlib.crc32(places.name.encode()) % 128
    for cidr in [*_CANDIDATES[first:128], *_CANDIDATES[:first], *_CANDIDATES[128:]]:
        if not any(cidr.overlaps(other) for other in taken):
            yield cidr


def exists(places: Places) -> bool:
    """Whether the host has an interface to the node."""
    links = json.loads(run(["ip", "-json", "link", "show"]))
    return any(link["ifname"] == places.link for link in links)


def release(places: Places) -> None:
    """Remove the pair of interfaces, and with it the routes."""
    if not exists(places):
        return
    try:
        run(["ip", "link", "delete", places.link])
    except ClusterError:  # it goes by itself when the node's namespace ends, also in between
        if exists(places):
            raise
