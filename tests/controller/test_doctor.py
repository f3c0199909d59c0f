"""`resultsfs doctor --cluster`: its rules, and how it tells what is missing on an API server where little is there."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controller import certificates
from controller.doctor import CHECKS, rights
from controller.doctor.platform import loses_lines
from controller.doctor.view import selects
from controller.storing import Looking
from resultsfs.settings import Settings
from resultsfs.store import Store
from tests.controller.conftest import Serving
from tests.support.chart import Tree, committed


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {"team": "a"}}, True),
        ({"matchLabels": {"team": "b"}}, False),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "other", "operator": "NotIn", "values": ["a"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "other", "operator": "Exists"}]}, False),
    ],
)
def test_label_selectors(selector: Tree, chosen: bool) -> None:
    """Namespaces are chosen by the API's own rules (meta/v1 LabelSelector)."""
    assert selects(selector, {"team": "a"}) is chosen


def test_the_rights_that_are_asked_for_are_the_charts() -> None:
    """What the doctor wants the two accounts to be able to do is exactly what the chart's roles grant."""
    objects = committed()
    found = set()
    for kind, where, namespace in (
        ("ClusterRole", "", None),
        ("Role", "own", "resultsfs"),
        ("Role", "tekton", "tekton-pipelines"),
    ):
        for rule in objects.one(kind, "resultsfs-controller", namespace)["rules"]:
            found |= _expanded(rule, where)
    secret = {rights.Right("", "secrets", verb, rights.SECRETS[False], "own") for verb in ("get", "update")}
    assert found == {*rights.CONTROLLER, *secret}
    node = [_expanded(rule, "") for rule in objects.one("ClusterRole", "resultsfs-node")["rules"]]
    assert set().union(*node) == set(rights.NODE)


def _expanded(rule: Tree, where: str) -> set[rights.Right]:
    return {
        rights.Right(group, resource, verb, name, where)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


@pytest.mark.parametrize(
    ("version", "loses"),
    [("v1.9.0", True), ("v1.13.0", True), ("1.14.1", True), ("v1.6.2", False), ("v1.15.0", False), ("v1.14.2", False)],
)
def test_a_tekton_that_loses_results(version: str, loses: bool) -> None:
    """The versions whose sidecar logs lose long lines are those of docs/benchmarks.md; what is no version is none of them."""
    assert loses_lines(version) is loses
    assert not any(loses_lines(text) for text in ("", "devel", "main-2026"))


def test_an_authority_is_told_by_its_signature() -> None:
    """Another authority of the same name did not sign it, the one that did is found among others."""
    made, other = (certificates.make(["localhost"], datetime.timedelta(days=1)) for _ in range(2))
    assert certificates.facts(made.pair.certificate, made.bundle).signed
    assert not certificates.facts(made.pair.certificate, other.bundle).signed
    assert certificates.facts(made.pair.certificate, other.bundle + made.bundle).signed


def test_a_store_is_looked_at_once_for_all_who_ask(tmp_path: Path) -> None:
    """A store that is away is told by its error's name alone, and many askers cost it one look."""
    way = tmp_path / "store"
    way.write_text("in the way")
    opened: list[Store] = []

    def store() -> Store:
        opened.append(Store.open(Settings(store=f"file://{way}", store_retries=0)))
        return opened[-1]

    looking = Looking(store)
    first = looking()
    assert first["answers"] is False
    assert first["cause"].startswith("Store") and str(way) not in str(first)
    assert looking() is first
    assert len(opened) == 1


def doctor(kubeconfig: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    environment = {**os.environ, "HOME": str(home), "KUBECONFIG": str(kubeconfig)}
    command = [str(Path(sys.executable).with_name("resultsfs")), "doctor", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)


def test_words_that_do_not_go_together(tmp_path: Path) -> None:
    """Options of this machine are refused with --cluster, and the other way round; a kubeconfig must be there."""
    for words in (
        ("--cluster", "--store", "file:///x"),
        ("-n", "x"),
        ("--cluster", "--kubeconfig", str(tmp_path / "no")),
    ):
        done = doctor(tmp_path / "none", tmp_path, *words)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.apiserver
def test_a_cluster_without_an_installation(serving_replica: Serving, tmp_path: Path) -> None:
    """Where hardly anything is there each missing thing is a line with its advice, and the rights that are there are found."""
    done = doctor(serving_replica.api.admin, tmp_path, "--cluster", "--output", "json")
    assert done.returncode == 1, done.stderr
    found = {line["name"]: line for line in json.loads(done.stdout)}
    assert list(found) == ["api", *(name for name, _ in CHECKS)]
    assert all(bool(line["advice"]) is (line["level"] != "ok") for line in found.values())
    assert "could not be looked at" not in done.stdout
    assert {found[name]["level"] for name in ("api", "admission", "certificate", "authority")} == {"ok"}
    # The controller's account is there, the node driver's is not.
    assert "resultsfs-node may not" in found["rights"]["found"]
    assert "resultsfs-controller" not in found["rights"]["found"]
    for name in (
        "tekton",
        "settings",
        "csi-driver",
        "holder",
        "node-driver",
        "controller",
        "webhooks",
        "endpoints",
        "store",
    ):
        assert found[name]["level"] == "fail", found[name]
    elsewhere = doctor(serving_replica.api.admin, tmp_path, "--cluster", "-n", "elsewhere").stdout
    assert "helm install resultsfs deploy/chart --namespace elsewhere" in elsewhere


@pytest.mark.slow
@pytest.mark.apiserver
def test_an_api_server_that_is_away(serving_replica: Serving, tmp_path: Path) -> None:
    """One line, with its address, and what to look at."""
    config = json.loads(serving_replica.api.admin.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    file = tmp_path / "config"
    file.write_text(json.dumps(config))
    done = doctor(file, tmp_path, "--cluster")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2 and "FAIL" in done.stdout and "readyz" in done.stdout


@pytest.mark.slow
@pytest.mark.apiserver
def test_a_replica_tells_whether_its_store_answers(serving_replica: Serving) -> None:
    """`/store` writes, reads and deletes an object; of what is wrong it tells no more than an error's name."""
    status, text = serving_replica.replica.get("/store")
    assert status == 200
    answer = json.loads(text)
    assert answer["answers"] is True and answer["written"] >= 0 and answer["read"] >= 0
    assert serving_replica.store.url not in text
