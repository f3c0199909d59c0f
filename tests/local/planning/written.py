"""PipelineRuns as tests write them: embedded tasks whose steps speak the executor's small language."""

from __future__ import annotations

from resultsfs.local.outcome import RunOutcome


def task(name: str, script: str = "", more: str = "", results: str = "") -> str:
    """A pipeline task with one step, in flow style but for its script."""
    lines = "\n".join(f"          {line}" for line in (script or "print nothing").splitlines())
    return f"""
  - name: {name}
    {more}
    taskSpec:
      results: [{results}]
      steps:
      - name: main
        script: |
{lines}
"""


def pipeline(*tasks: str, finally_: str = "", results: str = "", run: str = "") -> str:
    """A PipelineRun called `run` with these tasks embedded."""
    final = f"    finally:{_indented(finally_)}" if finally_ else ""
    return f"""
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {{name: run}}
spec:
{run}
  pipelineSpec:
    results: [{results}]
    tasks:{_indented("".join(tasks))}
{final}
"""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def skipped(outcome: RunOutcome) -> dict[str, str]:
    """Skipped tasks with their reasons."""
    return {item.name: item.reason for item in outcome.skipped}


STRING = "{name: r}"
ARRAY = "{name: r, type: array}"
USE = "params: [{name: p, value: $(tasks.a.results.r)}]"
MATRIX = """
  - name: {name}
    {more}
    taskSpec:
      params: [{{name: os}}, {{name: n, default: "0"}}]
      results: [{{name: r}}]
      steps: [{{script: "{script}"}}]
"""
