"""Labels that admission reads, and what it writes into pods. Annotations: `resultsfs.annotations`."""

from __future__ import annotations

PIPELINE_TASK = "tekton.dev/pipelineTask"
"""Tekton's label: which task of its pipeline a run is."""
PIPELINE_RUN_UID = "tekton.dev/pipelineRunUID"
"""Tekton's label: the UID of the PipelineRun that made a run."""

DRIVER = "csi.resultsfs.dev"
"""The node driver's name."""
VOLUME = "tekton-internal-results"
"""The volume of a TaskRun's pod that is mounted at /tekton/results."""
