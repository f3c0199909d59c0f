"""A Kubeflow pipeline whose outputs have sizes that nobody can predict: 10 bytes, kilobytes, megabytes.

Written in the KFP DSL (kfp 1.8.22), with values passed from component to component: in plain Tekton `measure` and
`train` would fail. `make example-kubeflow` compiles it with the published compiler (kfp-tekton 1.9.3) into
`pipeline.yaml`, which runs as the compiler wrote it. The one line here that knows of resultsfs is the annotation on
`summarise`, which asks for the path of a file where a value would be too large.
"""

from typing import NamedTuple

from kfp import components, dsl


def measure(days: int) -> NamedTuple("Measured", [("rows", str), ("features", str), ("model", str)]):
    """Measure for so many days: rows (9 kB a day), a list of features (7 kB), the name of a model (10 bytes)."""
    import json
    from collections import namedtuple

    rows = "".join(f"{minute},{minute * 7919 % 1000 / 1000:.3f}\n" for minute in range(days * 720))
    features = json.dumps([f"feature_{number}" for number in range(500)])
    return namedtuple("Measured", ["rows", "features", "model"])(rows, features, "linear-v01")


def train(features: str, model: str) -> str:
    """Train a model on features: a report of 20 kB."""
    import json

    return "".join(f"{model} {name}: weight {len(name) / 7:.6f}\n" for name in json.loads(features))


def count(report: str) -> int:
    """Count the lines of a report."""
    return len(report.splitlines())


def summarise(rows: str) -> NamedTuple("Summary", [("sha256", str), ("count", int)]):
    """Read rows, given as they are or, if they are many, as the path of a file: their SHA-256 and their number."""
    import hashlib
    from collections import namedtuple

    if rows.startswith("/tekton/results/.ref/"):
        with open(rows) as file:
            rows = file.read()
    return namedtuple("Summary", ["sha256", "count"])(hashlib.sha256(rows.encode()).hexdigest(), rows.count("\n"))


IMAGE = "python:3.12-slim"
measure_op = components.create_component_from_func(measure, base_image=IMAGE)
train_op = components.create_component_from_func(train, base_image=IMAGE)
count_op = components.create_component_from_func(count, base_image=IMAGE)
summarise_op = components.create_component_from_func(summarise, base_image=IMAGE)


@dsl.pipeline(name="unpredictable-sizes", description="Outputs of 10 bytes, of kilobytes and of megabytes")
def unpredictable_sizes(days: int = 365) -> None:
    """Measure, train on what fits a param, read the rest as a file, and decide by a small output."""
    measured = measure_op(days)
    trained = train_op(measured.outputs["features"], measured.outputs["model"])
    with dsl.Condition(measured.outputs["model"] == "linear-v01", "is-linear"):
        count_op(trained.output)
    summarise_op(measured.outputs["rows"]).add_pod_annotation("resultsfs.dev/params-as-path", "true")
