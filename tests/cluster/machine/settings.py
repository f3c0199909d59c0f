"""The components' configuration files: stock, but for what a small shared machine needs."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.cluster.machine import debian
from tests.cluster.machine.network import Network
from tests.cluster.machine.places import Places

NODE = "node"
"""The node's name."""
DOMAIN = "cluster.local"
PAUSE = "resultsfs.test/pause:1"
"""The image that holds a pod's namespaces."""
DISK = "/var/disk"
"""The node's place for large files, on the machine's disk. The rest of its /var is in memory: files there are charged
to the memory limit of the container that writes them."""
KUBELET_HOME = "/var/lib/kubelet"
"""In the node, as manifests of storage drivers expect it."""
_CAP_SYS_RESOURCE = 24
CONTAINERD_HOME = "/var/lib/containerd"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


def write(places: Places, network: Network, snapshotter: str) -> None:
    """Write all of them."""
    places.configs.mkdir(parents=True, exist_ok=True)
    _write(places.configs / "containerd.toml", _containerd(places, snapshotter))
    (places.configs / "cni").mkdir(exist_ok=True)
    _write(places.configs / "cni" / "10-resultsfs.conflist", json.dumps(_cni(network), indent=1))
    _write(places.configs / "kubelet.yaml", yaml.safe_dump(_kubelet(places, network)))
    _write(places.configs / "kube-proxy.yaml", yaml.safe_dump(_proxy(places, network)))
    _write(places.configs / "Corefile", _dns(places, network))
    _write(places.configs / "resolv.conf", f"nameserver {network.node}\n")


def _write(path: Path, content: str) -> None:
    path.write_text(content)


def _containerd(places: Places, snapshotter: str) -> str:
    return f"""version = 2
root = "{CONTAINERD_HOME}"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  tolerate_missing_hugetlb_controller = true
  disable_apparmor = true
  restrict_oom_score_adj = {"false" if _may_protect_from_oom() else "true"}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{debian.CNI.directory}"
    conf_dir = "{places.configs / "cni"}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{debian.RUNC.directory / "runc"}"
        SystemdCgroup = false
"""


def _may_protect_from_oom() -> bool:
    """Whether this process may lower its `oom_score_adj`, which containerd asks for by default."""
    with open("/proc/self/status", encoding="utf-8") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return bool(effective >> _CAP_SYS_RESOURCE & 1)


def _cni(network: Network) -> dict[str, object]:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(network.pods)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "/run/cni-addresses",
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "resultsfs", "plugins": [bridge, ports]}


def _kubelet(places: Places, network: Network) -> dict[str, object]:
    keys = places.keys
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(keys / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(keys / "server.crt"),
        "tlsPrivateKeyFile": str(keys / "server.key"),
        "address": network.node,
        "healthzBindAddress": network.node,
        "clusterDNS": [network.node],
        "clusterDomain": DOMAIN,
        "resolvConf": str(places.configs / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{places.name}",
        "failCgroupV1": False,  # the default of 1.34; 1.35 refuses version 1 unless told
        "failSwapOn": False,
        # The disk is shared with others: only an almost full one is this node's to act on, and images, which nothing
        # could fetch again, are never removed.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
    }


def _proxy(places: Places, network: Network) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": str(network.pods),
        "hostnameOverride": NODE,
        "bindAddress": network.node,
        "healthzBindAddress": f"{network.node}:10256",
        "metricsBindAddress": f"{network.node}:10249",
        "clientConnection": {"kubeconfig": str(places.keys / "kube-proxy.kubeconfig")},
        # the table of connections is the whole machine's: left as it is
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s",
        },
    }  # fmt: skip


def _dns(places: Places, network: Network) -> str:
    return f""".:53 {{
    bind {network.node}
    errors
    health {network.node}:8080
    ready {network.node}:8181
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {places.keys / "coredns.kubeconfig"}
        ttl 5
    }}
    cache 5
}}
"""
