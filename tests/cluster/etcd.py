"""What the API server keeps in etcd, in bytes."""

from __future__ import annotations

import base64
import json
import ssl
from collections import Counter
from typing import Any
from urllib.request import Request, urlopen

from tests.cluster.machine import network
from tests.cluster.machine.components import ETCD_PORT
from tests.cluster.machine.places import Places

_PREFIX = b"/registry/"
_PAGE = 5000
_WRITTEN = "etcd_debugging_mvcc_total_put_size_in_bytes"


class Etcd:
    """The cluster's etcd, by the JSON gateway of its v3 API."""

    def __init__(self, places: Places) -> None:
        found = network.read(places)
        assert found is not None, "the cluster is not up"
        self._url = f"https://{found.node}:{ETCD_PORT}/v3"
        self._context = ssl.create_default_context(cafile=str(places.keys / "ca.crt"))
        self._context.load_cert_chain(places.keys / "admin.crt", places.keys / "admin.key")

    def objects(self, namespace: str) -> Counter[str]:
        """Bytes of the keys and values of a namespace's objects as they are now, by resource."""
        found: Counter[str] = Counter()
        middle = f"/{namespace}/".encode()
        start, end = _PREFIX, _PREFIX[:-1] + b"0"
        while True:
            body = {"key": _encoded(start), "range_end": _encoded(end), "keys_only": True, "limit": _PAGE}
            keys = [base64.b64decode(pair["key"]) for pair in self._ask("kv/range", body).get("kvs", [])]
            for key in keys:
                if middle in key:
                    resource = key.removeprefix(_PREFIX).partition(middle)[0].decode()
                    pair = self._ask("kv/range", {"key": _encoded(key)})["kvs"][0]
                    found[resource] += len(key) + len(base64.b64decode(pair.get("value", "")))
            if len(keys) < _PAGE:
                return found
            start = keys[-1] + b"\0"

    def written(self) -> int:
        """Bytes of all keys and values that were put since etcd started: also what was overwritten or deleted since."""
        with urlopen(f"{self._url.removesuffix('/v3')}/metrics", timeout=60, context=self._context) as answer:
            for line in answer.read().decode().splitlines():
                name, _, value = line.rpartition(" ")
                if name == _WRITTEN:
                    return int(float(value))
        raise AssertionError(f"etcd has no metric {_WRITTEN}")

    def _ask(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        request = Request(f"{self._url}/{method}", json.dumps(body).encode(), method="POST")
        with urlopen(request, timeout=60, context=self._context) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def _encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()
