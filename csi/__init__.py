"""The node driver: gives each TaskRun pod its volume through CSI. `python -m csi` runs its processes."""
