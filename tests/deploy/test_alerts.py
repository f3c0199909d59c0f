"""The alerts as Prometheus' own evaluator sees them: what fires when something is away, and what does not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.machine import debian
from tests.cluster.machine.errors import ClusterError
from tests.support.chart import CHART, ROOT, Helm
from tests.support.chart import helm as helm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ALERTS = CHART / "monitoring" / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SCRAPING = OPERATIONS.split("```yaml\n")[1].split("```")[0]

Series = dict[str, str]
"""Time series by their selectors, as promtool writes them: one value a minute."""

WELL: Series = {
    'resultsfs_leader{pod="c-1"}': "0x60",
    'resultsfs_leader{pod="c-2"}': "1x60",
    'resultsfs_volumes{node="a"}': "3x60",
    'resultsfs_volumes{node="b"}': "0x60",
    'resultsfs_mounts{node="a"}': "3x60",
    'resultsfs_mounts{node="b"}': "0x60",
    'up{job="resultsfs", container="controller", pod="c-1", node="a"}': "1x60",
    'up{job="resultsfs", container="driver", pod="n-1", node="a"}': "1x60",
    'up{job="resultsfs", container="driver", pod="n-2", node="b"}': "1x60",
    'up{job="resultsfs", container="mounter", pod="n-1", node="a"}': "1x60",
    'up{job="resultsfs", container="mounter", pod="n-2", node="b"}': "1x60",
}
CASES: dict[str, tuple[Series, dict[str, list[dict[str, str]]]]] = {
    "all is well": ({}, {}),
    "no controller": (
        {'resultsfs_leader{pod="c-1"}': "", 'resultsfs_leader{pod="c-2"}': ""},
        {"ResultsfsControllerAway": [{}], "ResultsfsNoLeader": [{}]},
    ),
    "the controller went": (
        {'resultsfs_leader{pod="c-1"}': "0x20 stale", 'resultsfs_leader{pod="c-2"}': "1x20 stale"},
        {"ResultsfsControllerAway": [{}], "ResultsfsNoLeader": [{}]},
    ),
    "nobody leads": ({'resultsfs_leader{pod="c-2"}': "0x60"}, {"ResultsfsNoLeader": [{}]}),
    "two lead": ({'resultsfs_leader{pod="c-1"}': "1x60"}, {"ResultsfsNoLeader": [{}]}),
    "a replica is replaced": ({'resultsfs_leader{pod="c-2"}': "1x39 0x3 1x20"}, {}),
    "one driver": (
        {
            'resultsfs_volumes{node="b"}': "",
            'up{job="resultsfs", container="driver", pod="n-2", node="b"}': "0x60",
        },
        {"ResultsfsDriverAway": [{"node": "b"}]},
    ),
    "one mounter": (
        {
            'resultsfs_mounts{node="a"}': "3x30 stale",
            'up{job="resultsfs", container="mounter", pod="n-1", node="a"}': "1x30 0x30",
        },
        {"ResultsfsMounterAway": [{"node": "a"}]},
    ),
    "a node pod was replaced": (
        {
            'up{job="resultsfs", container="driver", pod="n-1", node="a"}': "1x20 0x40",
            'up{job="resultsfs", container="driver", pod="n-3", node="a"}': "_x20 1x40",
        },
        {},
    ),
    "nothing at all": (
        dict.fromkeys(WELL, ""),
        {
            "ResultsfsControllerAway": [{}],
            "ResultsfsNoLeader": [{}],
            "ResultsfsDriverAway": [{}],
            "ResultsfsMounterAway": [{}],
        },
    ),
}


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' own tool for rules and configurations."""
    found = shutil.which("promtool")
    try:
        return found or str(debian.provided(debian.PROMETHEUS) / "promtool")
    except ClusterError as error:
        pytest.skip(f"promtool is missing, and Debian's package prometheus, which has it, cannot be had: {error}")


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_rules(promtool: str) -> None:
    """Prometheus takes the file, every expression in it, and every template."""
    _run(promtool, "check", "rules", ALERTS)


@pytest.mark.parametrize("case", CASES)
def test_what_is_away_is_told(promtool: str, tmp_path: Path, case: str) -> None:
    """After 50 minutes these alerts fire, for these nodes, and no other one does."""
    changes, firing = CASES[case]
    series = {selector: values for selector, values in {**WELL, **changes}.items() if values}
    expected = [_expected(rule, firing.get(rule["alert"], []), series) for rule in RULES]
    test = {"interval": "1m", "input_series": [{"series": a, "values": b} for a, b in series.items()]}
    tests = {"rule_files": [str(ALERTS)], "tests": [{**test, "alert_rule_test": expected}]}
    file = tmp_path / "tests.yaml"
    file.write_text(json.dumps(tests))
    _run(promtool, "test", "rules", file)


def _expected(rule: dict[str, Any], labels: list[dict[str, str]], series: Series) -> dict[str, Any]:
    leaders = sum(values.startswith("1x60") for selector, values in series.items() if "leader" in selector)
    alerts = []
    for found in labels:
        text = re.sub(r"{{ or \$labels.node (\".*?\") }}", found.get("node", r"\1"), rule["annotations"]["summary"])
        text = text.replace('"any node"', "any node").replace("{{ $value }}", str(leaders))
        alerts.append({"exp_labels": {**rule["labels"], **found}, "exp_annotations": {"summary": text}})
    return {"eval_time": "50m", "alertname": rule["alert"], "exp_alerts": alerts}


def test_the_scrape_configuration(promtool: str, tmp_path: Path) -> None:
    """Prometheus takes the one that docs/operations.md has, but for the discovery, which Debian's Prometheus lacks."""
    [config] = yaml.safe_load(SCRAPING)
    assert config.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["resultsfs"]}}]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump({"scrape_configs": [{**config, "static_configs": [{"targets": ["pod:9810"]}]}]}))
    _run(promtool, "check", "config", file)


def test_both_ways_of_scraping_are_one(helm: Helm) -> None:
    """The document's scrape configuration has the ports, the labels and the job's name of the chart's PodMonitor."""
    values = {"settings": {"store": "s3://bucket"}, "monitoring": {"podMonitor": {"enabled": True}}}
    monitor = helm.render(values).one("PodMonitor", "resultsfs")
    [config] = yaml.safe_load(SCRAPING)
    keep = next(one for one in config["relabel_configs"] if one.get("action") == "keep")
    assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} == set(keep["regex"].split("|"))
    own = {one["targetLabel"] for end in monitor["spec"]["podMetricsEndpoints"] for one in end["relabelings"]}
    assert {one["target_label"] for one in config["relabel_configs"] if "target_label" in one} == own | {
        "namespace",
        "pod",
        "container",
    }
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"
    assert config["job_name"] == monitor["metadata"]["labels"]["app.kubernetes.io/name"]
    assert config["honor_labels"] is monitor["spec"]["podMetricsEndpoints"][0]["honorLabels"] is True
