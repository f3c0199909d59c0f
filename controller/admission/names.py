"""Annotations and labels that admission reads and writes."""

from __future__ import annotations

from resultsfs.settings import ANNOTATION_PREFIX

INJECT = ANNOTATION_PREFIX + "inject"
"""`"false"` on a namespace or a run: its pods stay as they are."""
RESOLVED = ANNOTATION_PREFIX + "resolved"
"""What was put back into a run: param → SHA-256 and size."""
REFERENCES = ANNOTATION_PREFIX + "references"
"""The references that a run was given as paths; their content stays while the run is there."""
HOLD = ANNOTATION_PREFIX + "hold"
"""`"true"` on a run or namespace: its content stays whatever retention says."""

PIPELINE_TASK = "tekton.dev/pipelineTask"
"""Tekton's label: which task of its pipeline a run is."""
PIPELINE_RUN_UID = "tekton.dev/pipelineRunUID"
"""Tekton's label: the UID of the PipelineRun that made a run."""

DRIVER = "csi.resultsfs.dev"
"""The node driver's name."""
VOLUME = "tekton-internal-results"
"""The volume of a TaskRun's pod that is mounted at /tekton/results."""
