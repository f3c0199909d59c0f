"""resultsfs: a filesystem for Tekton results.

Small results stay inline in TaskRun status; large ones spill to object storage and are carried as a
reference. This package knows nothing of Kubernetes or gRPC.
"""

__version__ = "0.1.0"
