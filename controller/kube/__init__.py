"""The Kubernetes API, as little of it as the controller needs.

Objects are plain JSON trees. The `kubernetes` package is asked only for a kubeconfig, in commands that a person
runs: its generated models alone would take half of a replica's memory (some 50 MB at import).
"""
