"""JSONPath queries on content, in a process of their own: both come from strangers, and may ask for endless work."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

from controller.api.errors import Problem

CONTENT_LIMIT = 4 << 20
"""Bytes of content that can be searched."""
ANSWER_LIMIT = 8 << 20
"""Bytes of what matches."""
SECONDS = 5
"""Of processor time."""
MEMORY = 96 << 20
"""Bytes of address space, which count towards the container's limit."""
_BAD_QUERY, _NOT_JSON, _TOO_LARGE = 3, 4, 5


def matches(data: bytes, query: str) -> bytes:
    """What matches, as a JSON array. Raises Problem."""
    if len(query) > 4096:
        raise Problem(400, "jsonpath: more than 4096 characters")
    command = [sys.executable, "-P", "-m", "controller.api.query"]
    request = json.dumps(query).encode() + b"\n" + data
    try:
        done = subprocess.run(command, input=request, capture_output=True, timeout=4 * SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Problem(422, f"jsonpath {query!r} takes too long on this content") from None
    text = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode == _BAD_QUERY:
        raise Problem(400, f"jsonpath {query!r}: {text}")
    if done.returncode == _NOT_JSON:
        raise Problem(422, f"the content is not JSON: {text}")
    if done.returncode == _TOO_LARGE:
        raise Problem(422, f"jsonpath {query!r}: {text}")
    if done.returncode != 0:
        raise Problem(422, f"jsonpath {query!r} takes more than {SECONDS} s or too much memory on this content")
    return done.stdout


def _main() -> int:
    import jsonpath

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    line, _, data = sys.stdin.buffer.read().partition(b"\n")
    try:
        path = jsonpath.compile(json.loads(line))
    except (jsonpath.JSONPathError, RecursionError) as error:
        print(error, file=sys.stderr)
        return _BAD_QUERY
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        print(error, file=sys.stderr)
        return _NOT_JSON
    try:
        found = path.findall(tree)
    except (jsonpath.JSONPathError, RecursionError) as error:
        print(error, file=sys.stderr)
        return _BAD_QUERY
    answer = json.dumps(found, ensure_ascii=True)
    if len(answer) > ANSWER_LIMIT:
        print(f"what matches has {len(answer)} bytes, and {ANSWER_LIMIT} are allowed", file=sys.stderr)
        return _TOO_LARGE
    sys.stdout.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
