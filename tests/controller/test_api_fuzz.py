"""The HTTP API against its own description, with requests that nobody thought of."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from controller.api import openapi
from controller.kube.client import Kube
from controller.kube.endpoint import from_kubeconfig
from controller.kube.resources import NAMESPACES, SECRETS
from tests.controller.apiserver import ApiServer
from tests.controller.conftest import Serving
from tests.controller.test_admission_runs import spilled
from tests.controller.test_api import allow, ended, token

pytestmark = [pytest.mark.apiserver, pytest.mark.slow, pytest.mark.timeout(600)]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(openapi.document())


@dataclass(frozen=True)
class Target:
    """A run that is there, and who may read it."""

    url: str
    token: str
    trusted: str
    namespace: str


@pytest.fixture(scope="module")
def target(serving_replica: Serving, api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A TaskRun with results of all kinds in a namespace of its own."""
    kube = Kube(from_kubeconfig(str(api.admin)))
    namespace = f"fuzz-{os.getpid()}"
    kube.create(NAMESPACES, None, {"metadata": {"name": namespace}})
    reference = spilled(serving_replica, namespace, json.dumps({"a": [1, {"b": "x" * 5000}]}))
    ended(kube, namespace, "run", text="yes", json=str(reference), list=["a", str(reference)])
    allow(kube, namespace, "reader")
    trusted: Path = tmp_path_factory.mktemp("fuzz") / "ca.crt"
    secret = kube.get(SECRETS, "resultsfs", "resultsfs-controller-certificate")
    trusted.write_bytes(base64.b64decode(secret["data"]["ca.crt"]))
    yield Target(serving_replica.replica.https, token(kube, namespace, "reader"), str(trusted), namespace)
    kube.close()


@SCHEMA.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_request_gets_an_answer_of_the_description(case: schemathesis.Case[Any], target: Target) -> None:
    """Whatever is asked, of runs that are there or not, is answered as described, and never by a failure of ours."""
    # The name of a result stays what it is: every other one is of a run that is there.
    if len(str(case.path_parameters.get("name"))) % 2:
        case.path_parameters |= {"namespace": target.namespace, "kind": "taskruns", "name": "run"}
        if "result" in case.path_parameters:
            case.path_parameters["result"] = ("text", "json", "list")[len(case.path_parameters["result"]) % 3]
    case.call_and_validate(
        base_url=target.url,
        headers={"Authorization": f"Bearer {target.token}"},
        verify=target.trusted,
        checks=CHECKS,
        allow_redirects=False,
    )
