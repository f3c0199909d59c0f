"""How large an object is where the API server keeps it: as JSON in the way that Go writes it."""

from __future__ import annotations

import json
import re
from typing import Any

LARGEST = 1_400_000
"""Bytes of an object that is sure to be kept: etcd takes requests of 1.5 MiB (--max-request-bytes), in which are also the
key and what the API server adds to the object, its managed fields above all."""

_HTML = re.compile("[<>&]")
_SEPARATORS = re.compile("[\u2028\u2029]")


def stored_size(tree: Any) -> int:
    """Bytes of a JSON tree as Go's encoding/json writes it: `<`, `>`, `&`, U+2028 and U+2029 take six, other text above
    ASCII is not escaped, and all else is as here."""
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    escaped = 5 * len(_HTML.findall(text)) + 3 * len(_SEPARATORS.findall(text))
    return len(text.encode("utf-8", "surrogatepass")) + escaped
