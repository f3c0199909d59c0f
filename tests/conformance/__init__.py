"""Tekton's own programs on the mount."""
