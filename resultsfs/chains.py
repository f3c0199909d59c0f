"""What Tekton Chains reads."""

from __future__ import annotations

NAMES = (
    "*IMAGE_URL",
    "*IMAGE_DIGEST",
    "IMAGES",
    "*ARTIFACT_URI",
    "*ARTIFACT_DIGEST",
    "*ARTIFACT_INPUTS",
    "*ARTIFACT_OUTPUTS",
)
"""The result names that Tekton Chains reads from status.results."""
