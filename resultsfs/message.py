"""The termination message: what Tekton's entrypoint writes for one container, and what may cut it.

Rules from tektoncd/pipeline `pkg/termination/write.go`, `pkg/result/result.go`, and from the kubelet's
`truncate` of termination messages (`pkg/kubelet/kuberuntime/kuberuntime_container.go`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

LIMIT = 4096
"""Bytes of JSON that Tekton allows in one container's termination message."""
POD_LIMIT = 12288
"""Bytes that the kubelet allows all containers of a pod together; each gets an equal share."""
FIXED_COST = 65
"""Bytes for the StartedAt entry and the brackets."""
EXIT_CODE_COST = 40
"""Bytes for the ExitCode entry, which a failing step under `onError: continue` adds."""
TOO_LONG = "Termination message is above max allowed size 4096, caused by large task result."
"""What the entrypoint prints, and exits with 1, when a message is over LIMIT."""

_STARTED_AT = "2006-01-02T15:04:05.000Z"
_TASK_RUN_RESULT, _INTERNAL_RESULT = 1, 3
_ESCAPED = re.compile("[<>&\u2028\u2029\udc80-\udcff]")

# encoding/json escapes these; DEL is sent as it is. \b and \f take two bytes since Go 1.22 and six before:
# the larger counts, for a message must fit whichever Go built the entrypoint.
_TWO = b'"\\\n\r\t'
_SIX = bytes(set(range(0x20)) - set(_TWO)) + b"<>&"
_SEPARATORS = ("\u2028".encode(), "\u2029".encode())
_BROKEN = re.compile("[\udc80-\udcff]")


def kubelet_limit(containers: int) -> int:
    """Bytes at which the kubelet cuts one container's message, for that many containers and init containers."""
    return POD_LIMIT // containers


def json_cost(content: bytes) -> int:
    """Bytes of `content` inside a JSON string as Go's encoding/json writes it, without the quotes.

    Six for each byte that is not UTF-8 (it becomes U+FFFD, written `\\ufffd`), for control characters, for
    `< > &` and for U+2028 and U+2029.
    """
    cost = len(content)
    cost += len(content) - len(content.translate(None, _TWO))
    cost += 5 * (len(content) - len(content.translate(None, _SIX)))
    if not content.isascii():
        cost += 3 * sum(content.count(separator) for separator in _SEPARATORS)
        cost += 5 * len(_BROKEN.findall(content.decode("utf-8", "surrogateescape")))
    return cost


def entry_cost(name: str, value_cost: int) -> int:
    """Bytes that one result adds to the message, its comma included; `value_cost` as `json_cost` gives."""
    return 30 + len(name) + value_cost + 1


def sidecar_line_cost(name: str, value_cost: int) -> int:
    """Bytes of the line that sidecarlogresults prints for one result, without the newline."""
    return len('{"name":"","value":"","type":"task"}') + len(name) + value_cost


@dataclass(frozen=True, slots=True)
class Entry:
    """One result as read from a message: its name and value (text; bytes that were not UTF-8 are U+FFFD)."""

    name: str
    value: str


def _go_string(content: bytes) -> str:
    """`content` as encoding/json writes a string: broken bytes are escaped, a genuine U+FFFD is sent as it is."""
    text = content.decode("utf-8", "surrogateescape")
    quoted = json.dumps(text, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{_escaped_as(match[0]):04x}", quoted)


def _escaped_as(char: str) -> int:
    return 0xFFFD if 0xDC80 <= ord(char) <= 0xDCFF else ord(char)


def encode(results: Iterable[tuple[str, bytes]], *, exit_code: int | None = None) -> bytes:
    """The message that the entrypoint writes for results read as bytes, whatever its size.

    An invalid byte is written as six ASCII characters, as Go does it.
    """
    entries = [_entry(name, content, _TASK_RUN_RESULT) for name, content in results]
    entries.append(_entry("StartedAt", _STARTED_AT.encode(), _INTERNAL_RESULT))
    if exit_code is not None:
        entries.append(_entry("ExitCode", str(exit_code).encode(), _INTERNAL_RESULT))
    return ("[" + ",".join(entries) + "]").encode()


def _entry(name: str, content: bytes, kind: int) -> str:
    return f'{{"key":"{name}","value":{_go_string(content)},"type":{kind}}}'


def decode(message: bytes) -> list[Entry] | None:
    """The results in a message, as Tekton's controller reads them; None when the JSON is cut or broken."""
    try:
        entries = json.loads(message.decode("utf-8", "replace"))
    except ValueError:
        return None
    return [Entry(entry["key"], entry["value"]) for entry in entries if entry["type"] == _TASK_RUN_RESULT]
