"""The local runner: runs Tekton YAML on this machine, with results on the mount."""
