"""A single-node Kubernetes on this machine, in namespaces of its own: build, start, look at, remove."""
