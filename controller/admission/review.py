"""AdmissionReview (admission.k8s.io/v1): the question as the API server asks it, and the answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.kube.resources import Tree
from resultsfs.errors import InvalidDocument

OPERATIONS_LIMIT = 3 << 20
"""Bytes of the largest request that an API server sends."""


@dataclass(frozen=True, slots=True)
class Request:
    """One object that somebody wants to create; `kind` as the API has it, `resource` its plural."""

    uid: str
    kind: str
    resource: str
    namespace: str
    name: str
    operation: str
    object: Tree
    user: str
    dry_run: bool = False

    @property
    def label(self) -> str:
        """What it is called: its name, or the beginning of the one it will get."""
        metadata = self.object.get("metadata", {})
        return str(self.name or metadata.get("name") or metadata.get("generateName") or "?")


@dataclass(frozen=True, slots=True)
class Answer:
    """Admitted as it is or with JSON patch operations, or refused with a status that says why."""

    operations: Sequence[Tree] = ()
    code: int = 200
    reason: str = ""
    message: str = ""
    warnings: Sequence[str] = field(default=())

    @property
    def allowed(self) -> bool:
        """Whether the object may be created."""
        return self.code == 200


ADMITTED = Answer()


def invalid(message: str) -> Answer:
    """Refused for good: Tekton ends the PipelineRun with CreateRunFailed and this message."""
    return Answer(code=422, reason="Invalid", message=message)


def unavailable(message: str) -> Answer:
    """Refused for now: Tekton tries again."""
    return Answer(code=503, reason="ServiceUnavailable", message=message)


def parse(body: bytes) -> Request:
    """The request in an AdmissionReview. Raises InvalidDocument for anything else."""
    try:
        review = json.loads(body)
        request = review["request"]
        if review["apiVersion"] != "admission.k8s.io/v1" or review["kind"] != "AdmissionReview":
            raise InvalidDocument(f"expected an AdmissionReview of admission.k8s.io/v1, found {review['apiVersion']!r}")
        tree = request["object"]
        if not isinstance(tree, dict) or not isinstance(tree.get("metadata", {}), dict):
            raise InvalidDocument("an AdmissionReview whose object is no object")
        return Request(
            uid=str(request["uid"]),
            kind=str(request["kind"]["kind"]),
            resource=str(request["resource"]["resource"]),
            namespace=str(request.get("namespace", "")),
            name=str(request.get("name", "")),
            operation=str(request["operation"]),
            object=tree,
            user=str(request.get("userInfo", {}).get("username", "")),
            dry_run=bool(request.get("dryRun")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidDocument):
            raise
        raise InvalidDocument(f"not an AdmissionReview: {error!r}") from None


def render(request: Request, answer: Answer) -> bytes:
    """The AdmissionReview that answers a request."""
    response: dict[str, Any] = {"uid": request.uid, "allowed": answer.allowed}
    if answer.warnings:
        response["warnings"] = list(answer.warnings)
    if answer.operations and answer.allowed:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(answer.operations, separators=(",", ":")).encode()).decode()
    if not answer.allowed:
        response["status"] = {
            "status": "Failure",
            "code": answer.code,
            "reason": answer.reason,
            "message": answer.message,
        }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
    return json.dumps(review, separators=(",", ":")).encode()
