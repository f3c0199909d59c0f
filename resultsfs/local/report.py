"""A run's outcome as the one JSON object of `resultsfs run --output json`."""

from __future__ import annotations

import json
from typing import Any

from resultsfs.local.outcome import RunOutcome
from resultsfs.local.plan import ResultOutcome


def as_object(outcome: RunOutcome) -> dict[str, Any]:
    """The outcome as a JSON tree; sizes in bytes, SHA-256 in hex, `value` what Tekton's status would hold."""
    return {
        "kind": outcome.kind,
        "name": outcome.name,
        "status": outcome.status,
        "reason": outcome.reason,
        "message": outcome.message,
        "results": [_result(result) for result in outcome.results],
        "taskRuns": [
            {
                "name": record.name,
                "pipelineTask": record.pipeline_task,
                "status": record.status,
                "reason": record.reason,
                "message": record.message,
                "results": [_result(result) for result in record.results],
            }
            for record in outcome.task_runs
        ],
        "skipped": [skipped.name for skipped in outcome.skipped],
    }


def as_json(outcome: RunOutcome) -> str:
    """The object as text, one line."""
    return json.dumps(as_object(outcome), ensure_ascii=False)


def _result(result: ResultOutcome) -> dict[str, Any]:
    return {
        "name": result.name,
        "type": result.type.value,
        "size": result.size,
        "sha256": result.sha256,
        "spilled": result.spilled,
        "value": result.value,
    }
