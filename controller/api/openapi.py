"""The API's description (OpenAPI 3.1), served at /openapi.json."""

from __future__ import annotations

from typing import Any

from controller.naming import KINDS
from resultsfs import __version__

Tree = dict[str, Any]
_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$"
_RESULT = r"^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$"


def document() -> Tree:
    """The whole description."""
    run = "/v1/namespaces/{namespace}/{kind}/{name}/results"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "resultsfs",
            "version": __version__,
            "description": "Results of TaskRuns and PipelineRuns, spilled ones included, for whoever may `get` the run.",
        },
        "security": [{"bearer": []}],
        "paths": {
            run: {"parameters": _run(), "get": _list(), "head": _head("The list, without it.", {})},
            run + "/{result}": {
                "parameters": [*_run(), _path("result", _RESULT, "The result's name.")],
                "get": _get(),
                "head": _head("Size and digest of the content.", _content_headers()),
            },
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token of the cluster's API server."}
            },
            "schemas": {"Child": _child(), "Error": _error(), "Result": _result(), "Results": _results()},
        },
    }


def _run() -> list[Tree]:
    return [
        _path("namespace", _LABEL, "The run's namespace."),
        {
            "name": "kind",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "enum": list(KINDS)},
        },
        _path("name", _NAME, "The run's name.", 253),
    ]


def _path(name: str, pattern: str, text: str, most: int | None = None) -> Tree:
    schema: Tree = {"type": "string", "minLength": 1, "pattern": pattern}
    if most is not None:
        schema["maxLength"] = most
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _list() -> Tree:
    schema = {"$ref": "#/components/schemas/Results"}
    return {
        "operationId": "listResults",
        "summary": "A run's own results with their sizes, and the runs that it has made.",
        "responses": {
            "200": {"description": "The list.", "content": {"application/json": {"schema": schema}}},
            **_problems("401", "403", "404", "429", "503"),
        },
    }


def _get() -> Tree:
    return {
        "operationId": "getResult",
        "summary": "A result's content. The whole is proven by its SHA-256 before its last bytes come.",
        "parameters": [
            _optional("query", "jsonpath", "Only what matches (RFC 9535), as a JSON array."),
            _optional("header", "Range", "One range of bytes; it proves nothing by itself."),
            _optional("header", "If-Range", "The ETag for which the range is meant."),
            _optional("header", "If-None-Match", "ETags that the caller has."),
        ],
        "responses": {
            "200": {
                "description": "The content, or what matches.",
                "headers": _content_headers(),
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    "application/json": {},
                },
            },
            "206": {
                "description": "The range.",
                "headers": _content_headers(),
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    "application/json": {},
                },
            },
            "304": {"description": "The caller has it."},
            "307": {"description": "It is at a presigned URL."},
            **_problems("400", "401", "403", "404", "409", "410", "413", "416", "422", "429", "502", "503"),
        },
    }


def _head(summary: str, headers: Tree) -> Tree:
    codes = ("200", "304", "401", "403", "404", "409", "410", "413", "429", "503")
    return {
        "summary": summary,
        "responses": {
            code: {"description": "As for GET.", **({"headers": headers} if code == "200" else {})} for code in codes
        },
    }


def _optional(where: str, name: str, text: str) -> Tree:
    return {"name": name, "in": where, "required": False, "description": text, "schema": {"type": "string"}}


def _content_headers() -> Tree:
    names = {
        "ETag": "The content's SHA-256 in hex, quoted.",
        "Repr-Digest": "The content's SHA-256 (RFC 9530).",
        "Content-Length": "Bytes that follow.",
    }
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in names.items()}


_STATUS = {
    "400": "The query is none.",
    "401": "No token, or one that is not known.",
    "403": "The caller may not get this run.",
    "404": "There is no such run or result.",
    "409": "The content cannot be put together.",
    "410": "The content is gone.",
    "413": "The content is too large for what is asked.",
    "416": "The range is not in the content.",
    "422": "The query does not go with the content.",
    "429": "Too many requests.",
    "502": "The store gave wrong bytes.",
    "503": "The API server or the store does not answer.",
}


def _problems(*codes: str) -> Tree:
    schema = {"$ref": "#/components/schemas/Error"}
    content = {"application/json": {"schema": schema}}
    return {code: {"description": _STATUS[code], "content": content} for code in codes}


def _error() -> Tree:
    return {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def _result() -> Tree:
    return {
        "type": "object",
        "required": ["name", "type", "size", "sha256", "spilled", "available"],
        "properties": {
            "name": {"type": "string"},
            "type": {"type": "string", "enum": ["string", "array", "object"]},
            "size": {"type": ["integer", "null"], "description": "Bytes, as the step wrote it; null: not known."},
            "sha256": {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
            "spilled": {"type": "boolean", "description": "Whether some of it is in the store."},
            "available": {"type": "boolean", "description": "Whether all of it is still there."},
        },
    }


def _results() -> Tree:
    return {
        "type": "object",
        "required": ["kind", "namespace", "name", "uid", "results", "children"],
        "properties": {
            "kind": {"type": "string"},
            "namespace": {"type": "string"},
            "name": {"type": "string"},
            "uid": {"type": "string"},
            "results": {"type": "array", "items": {"$ref": "#/components/schemas/Result"}},
            "children": {
                "type": "array",
                "description": "The runs that a PipelineRun has made; their results are at their own paths.",
                "items": {"$ref": "#/components/schemas/Child"},
            },
        },
    }


def _child() -> Tree:
    return {
        "type": "object",
        "required": ["kind", "name", "task"],
        "properties": {
            "kind": {"type": "string", "enum": list(KINDS)},
            "name": {"type": "string"},
            "task": {"type": "string", "description": "The task of the pipeline; a matrix has several runs of one."},
        },
    }
