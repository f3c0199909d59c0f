"""`resultsfs` against a cluster, as a person runs it: by kubeconfig and store, by the HTTP API, as kubectl's plugin."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.kube.resources import SECRETS, TASK_RUNS
from resultsfs.message import TOO_LONG
from tests.controller.conftest import Serving
from tests.controller.replica import account_kubeconfig
from tests.controller.test_admission_pods import pipeline_run
from tests.controller.test_admission_runs import spilled
from tests.controller.test_api import LARGE, allow, ended, token

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(serving_replica: Serving, tmp_path: Path) -> Run:
    """The command with the administrator's kubeconfig, to its end."""
    return command_of(serving_replica, tmp_path)


def command_of(serving: Serving, home: Path) -> Run:
    """The command as a person has it whose home is there; `trusted`: the controller's own certificate is."""

    def command(
        *words: str, program: str = "resultsfs", kubeconfig: Path | None = None, trusted: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {
            **os.environ,
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "KUBECONFIG": str(kubeconfig or serving.api.admin),
        }
        if trusted:
            environment["SSL_CERT_FILE"] = str(_authority(serving, home))
        return subprocess.run([program, *words], capture_output=True, env=environment, timeout=100, check=False)

    return command


def _authority(serving: Serving, home: Path) -> Path:
    kube = Kube(from_kubeconfig(str(serving.api.admin)))
    secret = kube.get(SECRETS, "resultsfs", "resultsfs-controller-certificate")
    kube.close()
    file = home / "ca.crt"
    file.write_bytes(base64.b64decode(secret["data"]["ca.crt"]))
    return file


def test_by_kubeconfig_and_store(
    serving_replica: Serving, kube: Kube, namespace: str, run: Run, tmp_path: Path
) -> None:
    """A TaskRun's results are listed, described and read, spilled ones from the store and proven."""
    reference = spilled(serving_replica, namespace, LARGE)
    ended(kube, namespace, "mine", small="yes", large=str(reference), list=["a", str(reference)])
    store = ["--store", serving_replica.store.url, "-n", namespace]
    listed = run("list", "taskrun/mine", *store, "--output", "json")
    assert listed.returncode == 0, listed.stderr
    sizes = {row["name"]: row["size"] for row in json.loads(listed.stdout)["results"]}
    assert sizes == {"small": 3, "large": len(LARGE), "list": None}
    assert b"spilled" in run("list", "tr/mine", *store).stdout
    assert run("get", "taskrun/mine", "large", *store).stdout == LARGE
    assert run("get", "taskrun/mine", "small", "-n", namespace).stdout == b"yes"
    assert json.loads(run("get", "taskrun/mine", "list", *store).stdout) == ["a", LARGE.decode()]
    facts = json.loads(run("stat", "taskrun/mine", "large", *store, "--output", "json").stdout)
    assert (facts["size"], facts["sha256"], facts["spilled"]) == (len(LARGE), reference.sha256, True)
    into = tmp_path / "out"
    assert run("get", "taskrun/mine", "large", *store, "-o", str(into)).returncode == 0
    assert into.read_bytes() == LARGE
    for words, code, said in (
        (["get", "taskrun/mine", "other", *store], 2, b"small, large, list"),
        (["get", "taskrun/none", "x", *store], 1, b"404"),
        (["get", "taskrun/mine", "large", "-n", namespace], 2, b"--api"),
        (["get", "taskrun/mine", "-n", namespace], 2, b"name a result"),
    ):
        failed = run(*words)
        assert (failed.returncode, said in failed.stderr, failed.stdout) == (code, True, b""), failed.stderr


def test_by_the_http_api(serving_replica: Serving, kube: Kube, namespace: str, run: Run) -> None:
    """With a token and --api no credentials of the store are needed, and rights are the API's."""
    reference = spilled(serving_replica, namespace, LARGE)
    ended(kube, namespace, "mine", large=str(reference))
    allow(kube, namespace, "reader")
    token(kube, namespace, "reader")
    token(kube, namespace, "nobody")
    words = ["--api", serving_replica.replica.https, "-n", namespace]
    config = account_kubeconfig(serving_replica.api, kube, "reader", namespace)
    answer = run("get", "taskrun/mine", "large", *words, kubeconfig=config, trusted=True)
    assert (answer.returncode, answer.stdout) == (0, LARGE), answer.stderr
    facts = run("stat", "taskrun/mine", "large", *words, "--output", "json", kubeconfig=config, trusted=True)
    assert json.loads(facts.stdout)["sha256"] == reference.sha256
    stranger = account_kubeconfig(serving_replica.api, kube, "nobody", namespace)
    refused = run("get", "taskrun/mine", "large", *words, kubeconfig=stranger, trusted=True)
    assert refused.returncode == 1 and b"403" in refused.stderr


def test_the_api_by_its_own_authority(
    serving_replica: Serving, kube: Kube, namespace: str, run: Run, tmp_path: Path
) -> None:
    """Without the authority that signed its certificate the API is not believed; `--ca` names it, a wrong one is said."""
    ended(kube, namespace, "mine", small="yes")
    allow(kube, namespace, "reader")
    token(kube, namespace, "reader")
    config = account_kubeconfig(serving_replica.api, kube, "reader", namespace)
    words = ["get", "taskrun/mine", "small", "--api", serving_replica.replica.https, "-n", namespace]
    refused = run(*words, kubeconfig=config)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"certificate verify failed" in refused.stderr
    authority = _authority(serving_replica, tmp_path)
    answer = run(*words, "--ca", str(authority), kubeconfig=config)
    assert (answer.returncode, answer.stdout) == (0, b"yes"), answer.stderr
    for file, text in (("none.crt", None), ("text.crt", "no certificate")):
        if text is not None:
            (tmp_path / file).write_text(text)
        refused = run(*words, "--ca", str(tmp_path / file), kubeconfig=config)
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert f"--ca {tmp_path / file}".encode() in refused.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_as_kubectls_plugin(serving_replica: Serving, kube: Kube, namespace: str, run: Run) -> None:
    """`kubectl resultsfs` is the same command, and takes the context's namespace."""
    ended(kube, namespace, "mine", small="yes")
    config = json.loads(serving_replica.api.admin.read_text())
    config["contexts"][0]["context"]["namespace"] = namespace
    file = serving_replica.home / f"{namespace}.kubeconfig"
    file.write_text(json.dumps(config))
    done = run("resultsfs", "get", "taskrun/mine", "small", program="kubectl", kubeconfig=file)
    assert (done.returncode, done.stdout) == (0, b"yes"), done.stderr
    done = run("get", "taskrun/mine", "small", program="tkn-resultsfs", kubeconfig=file)
    assert (done.returncode, done.stdout) == (0, b"yes"), done.stderr


def test_gc_says_what_would_go_and_why(
    serving_replica: Serving, kube: Kube, namespace: str, run: Run, tmp_path: Path
) -> None:
    """A dry run deletes and notes nothing; a real one deletes what its grace allows, and only there."""
    parent = pipeline_run(kube, namespace, "alive", {"tasks": []})
    alive, gone = UUID(parent["metadata"]["uid"]), uuid4()
    for uid in (alive, gone):
        spilled(serving_replica, namespace, "content", uid)
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"store: {serving_replica.store.url}\ngarbage-grace: '0'\n")
    words = ["-n", namespace, "--settings", str(settings)]
    dry = run("gc", "--dry-run", *words, "--output", "json")
    assert dry.returncode == 0, dry.stderr
    goes = {row["run"]: (row["goes"], row["why"]) for row in json.loads(dry.stdout)["runs"]}
    assert goes[str(alive)] == (False, f"PipelineRun {namespace}/alive is there")
    assert goes[str(gone)][0] and "gone since" in goes[str(gone)][1]
    assert {uid for _, uid in serving_replica.store.runs(namespace)} == {alive, gone}
    done = run("gc", *words)
    assert done.returncode == 0 and b"deleted: 1" in done.stdout, done.stderr
    assert {uid for _, uid in serving_replica.store.runs(namespace)} == {alive}
    assert run("gc", "--dry-run").returncode == 2


def test_advise(serving_replica: Serving, kube: Kube, namespace: str, run: Run) -> None:
    """Sizes in etcd, what each threshold would spill, and which runs failed for size or lost results."""
    ended(kube, namespace, "one", small="x" * 100, large="y" * 3000)
    ended(kube, namespace, "two", other="z" * 1500)
    ended(kube, namespace, "failed")
    reason = {
        "type": "Succeeded",
        "status": "False",
        "reason": "TaskRunResultLargerThanAllowedLimit",
        "message": TOO_LONG,
    }
    kube.merge(TASK_RUNS.path(namespace, "failed", "status"), {"status": {"conditions": [reason]}})
    ended(kube, namespace, "lost")
    lost = {"taskSpec": {"results": [{"name": "never"}]}, "conditions": [{"type": "Succeeded", "status": "True"}]}
    kube.merge(TASK_RUNS.path(namespace, "lost", "status"), {"status": lost})
    done = run("advise", "-n", namespace, "--threshold", "1KiB", "--threshold", "2KiB", "--output", "json")
    advice = json.loads(done.stdout)
    assert (advice["task_runs"], advice["results"], advice["bytes"], advice["largest"]) == (4, 3, 4600, 3000)
    assert advice["thresholds"] == [
        {"threshold": 1024, "task_runs": 2, "results": 2, "saved": 4500 - 2 * 87},
        {"threshold": 2048, "task_runs": 1, "results": 1, "saved": 3000 - 87},
    ]
    assert advice["spilling"] == [
        {"namespace": namespace, "name": "one", "largest": 3000, "thresholds": [1024, 2048]},
        {"namespace": namespace, "name": "two", "largest": 1500, "thresholds": [1024]},
    ]
    assert [one["name"] for one in advice["failures"]] == ["failed"]
    assert advice["without_results"] == [f"{namespace}/lost"]
    table = run("advise", "-n", namespace).stdout
    assert b"failed for size" in table and f"{namespace}/two".encode() in table
