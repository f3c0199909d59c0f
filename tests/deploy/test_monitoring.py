"""Alerts and dashboard ask only for metrics that there are, and the documents explain them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from controller.metrics import Metrics as ControllerMetrics
from csi.metrics import MOUNTER_GAUGES, DriverMetrics, MounterMetrics
from tests.support.chart import CHART, ROOT

ALERTS = yaml.safe_load((CHART / "monitoring" / "alerts.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((CHART / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
TARGETS = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
SCRAPED = frozenset({"node", "component", "namespace", "pod", "container", "job", "instance", "le"})
"""Labels that come with scraping, or with histograms."""


def _exported() -> dict[str, frozenset[str]]:
    """Every name of a time series, with the metric's own labels; `up` is Prometheus' own."""
    found = {"up": frozenset[str](), **{name: frozenset[str]() for name in MOUNTER_GAUGES}}
    for registry in (DriverMetrics().registry, MounterMetrics().registry, ControllerMetrics().registry):
        for collector in registry._collector_to_names:
            labels = frozenset(getattr(collector, "_labelnames", ()))
            for family in collector.collect():
                endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
                found |= {family.name + ending: labels for ending in endings}
    return found


EXPORTED = _exported()


def _selectors(expression: promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    elif isinstance(expression, promql_parser.MatrixSelector):
        yield expression.vector_selector
    elif isinstance(expression, promql_parser.Call):
        for argument in expression.args:
            yield from _selectors(argument)
    elif isinstance(expression, promql_parser.BinaryExpr):
        yield from _selectors(expression.lhs)
        yield from _selectors(expression.rhs)
    elif isinstance(
        expression,
        promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.UnaryExpr | promql_parser.SubqueryExpr,
    ):
        yield from _selectors(expression.expr)
    else:
        assert isinstance(expression, promql_parser.NumberLiteral | promql_parser.StringLiteral)


def _check(text: str) -> None:
    """Every series is one that is exported, every label one that it has."""
    plain = text.replace("$__rate_interval", "5m").replace("$__range", "1h").replace("$node", ".*")
    found = list(_selectors(promql_parser.parse(plain)))
    assert found
    labels = SCRAPED.union(*(EXPORTED.get(selector.name or "", ()) for selector in found))
    for selector in found:
        assert selector.name in EXPORTED
        for matcher in selector.matchers.matchers:
            assert matcher.name in EXPORTED[selector.name] | SCRAPED
    for by in re.findall(r"\bby \(([^)]*)\)", text):
        assert set(by.replace(" ", "").split(",")) <= labels


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_ask_for_what_there_is(rule: dict[str, Any]) -> None:
    """An alert's series and labels exist, its text uses only labels that it has, and it says how severe it is."""
    _check(rule["expr"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    kept = {name for by in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for name in by.replace(" ", "").split(",")}
    assert used <= kept


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_are_explained(rule: dict[str, Any]) -> None:
    """docs/operations.md has a section for each alert."""
    assert f"\n### {rule['alert']}\n" in OPERATIONS


def test_no_alert_is_explained_that_is_none() -> None:
    """Each section of an alert is about one that there is, and no two alerts have one name."""
    names = [rule["alert"] for rule in RULES]
    assert sorted(re.findall(r"^### (Resultsfs\w+)$", OPERATIONS, re.MULTILINE)) == sorted(names)


@pytest.mark.parametrize(("title", "expression"), TARGETS, ids=lambda value: str(value)[:40])
def test_panels_ask_for_what_there_is(title: str, expression: str) -> None:
    """A panel's series and labels exist."""
    _check(expression)


def test_panels_do_not_overlap() -> None:
    """Every panel has a place of its own, a number of its own, and says what it shows."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_metric_is_explained() -> None:
    """docs/operations.md has each metric that is exported, with its labels and in the words that it is exported with."""
    wanted = {f"| `{name}` | mounter: {text} |" for name, text in MOUNTER_GAUGES.items()}
    for component, metrics in (
        ("driver", DriverMetrics()),
        ("mounter", MounterMetrics()),
        ("controller", ControllerMetrics()),
    ):
        for collector in metrics.registry._collector_to_names:
            labels = ", ".join(sorted(getattr(collector, "_labelnames", ())))
            for family in collector.collect():
                name = (
                    family.name + ("_total" if family.type == "counter" else "") + (f"{{{labels}}}" if labels else "")
                )
                wanted.add(f"| `{name}` | {component}: {family.documentation} |")
    table = OPERATIONS.split("## Metrics")[1].split("\n## ")[0]
    assert {line for line in table.splitlines() if line.startswith("| `")} == wanted
