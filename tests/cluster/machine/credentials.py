"""Who is who in the cluster: the certificates and kubeconfigs of the components and of the administrator."""

from __future__ import annotations

from tests.cluster.machine import settings
from tests.cluster.machine.components import API_PORT
from tests.cluster.machine.keys import Authority, kubeconfig, write_private
from tests.cluster.machine.network import Network
from tests.cluster.machine.places import Places

_CLIENTS = {
    "admin": ("kubernetes-admin", "system:masters"),
    "apiserver-to-kubelet": ("kube-apiserver-kubelet-client",),
    "kube-controller-manager": ("system:kube-controller-manager",),
    "kube-scheduler": ("system:kube-scheduler",),
    "kube-proxy": ("system:kube-proxy",),
    "kubelet": (f"system:node:{settings.NODE}", "system:nodes"),
    "coredns": ("coredns",),
}
"""Users and groups, by the names of their files. The roles of the `system:` ones come with Kubernetes."""

ROLES = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: resultsfs-apiserver-to-kubelet}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:kubelet-api-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: kube-apiserver-kubelet-client}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: resultsfs-dns}
rules:
- {apiGroups: [""], resources: [namespaces, services, pods], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: resultsfs-dns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: resultsfs-dns}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: coredns}]
"""
"""The roles of the others."""


def issue(places: Places, network: Network) -> None:
    """Write everybody's certificates and kubeconfigs."""
    authority = Authority(places.keys)
    service = "kubernetes.default.svc"
    names = ["localhost", "kubernetes", "kubernetes.default", service, f"{service}.{settings.DOMAIN}", settings.NODE]
    authority.server("server", [*names, "127.0.0.1", network.node, network.api_service])
    authority.signing_key("service-accounts")
    server = f"https://{network.node}:{API_PORT}"
    for name, identity in _CLIENTS.items():
        content = kubeconfig(server, authority.pair, authority.client(name, *identity))
        write_private(places.keys / f"{name}.kubeconfig", content)
    write_private(places.kubeconfig, (places.keys / "admin.kubeconfig").read_bytes())
