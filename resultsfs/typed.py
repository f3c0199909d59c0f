"""What a result's bytes are as a value of Tekton's API: Go's way of reading text and JSON.

Rules from tektoncd/pipeline `pkg/apis/pipeline/v1/param_types.go` (`ParamValue.UnmarshalJSON`) and Go's `encoding/json`.
"""

from __future__ import annotations

import json

from resultsfs.record import ResultType, ResultValue


def type_of(value: ResultValue) -> ResultType:
    """The type that a value has."""
    if isinstance(value, str):
        return ResultType.STRING
    return ResultType.OBJECT if isinstance(value, dict) else ResultType.ARRAY


def text_of(content: bytes) -> str:
    """Content as a JSON string carries it: each byte that is not UTF-8 becomes one U+FFFD."""
    text = content.decode("utf-8", "surrogateescape")
    return "".join("\ufffd" if "\udc80" <= char <= "\udcff" else char for char in text)


def unmarshalled(text: str) -> ResultValue:
    """What Tekton makes of the text of an array or object result: a value of any type, by what it looks like.

    What is no array or object of strings is a string, however deep the JSON. `null` is the empty string, a lone
    surrogate in an escape U+FFFD.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, str):
        return _decoded(value)
    if text[0] == "[" and all(item is None or isinstance(item, str) for item in value):
        return [_decoded(item or "") for item in value]
    if text[0] == "{" and all(item is None or isinstance(item, str) for item in value.values()):
        return {_decoded(key): _decoded(item or "") for key, item in value.items()}
    return text


def _decoded(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
