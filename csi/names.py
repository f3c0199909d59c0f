"""Names that the node driver shares with Kubernetes: its own, the kubelet's keys, paths below the kubelet's directory."""

from __future__ import annotations

DRIVER = "csi.resultsfs.dev"
"""The CSIDriver object's name, and the component of our Events."""

KUBELET_KEYS = "csi.storage.k8s.io/"
"""Prefix of what the kubelet adds to a volume's attributes when the CSIDriver object says `podInfoOnMount`."""

EPHEMERAL = KUBELET_KEYS + "ephemeral"
POD_NAME = KUBELET_KEYS + "pod.name"
POD_NAMESPACE = KUBELET_KEYS + "pod.namespace"
POD_UID = KUBELET_KEYS + "pod.uid"
TOKENS = KUBELET_KEYS + "serviceAccount.tokens"

VOLUMES = "volumes/kubernetes.io~csi"
"""Where, in a pod's directory below the kubelet's `pods`, its CSI volumes are."""
ENTRYPOINT = "volumes/kubernetes.io~empty-dir/tekton-internal-bin/entrypoint"
"""Where, in a pod's directory, Tekton puts the entrypoint that its steps run (tekton-facts: pkg/pod/entrypoint.go)."""
SIDECAR = "/ko-app/sidecarlogresults"
"""The executable of Tekton's results sidecar, in its own container (its image is built by ko)."""
