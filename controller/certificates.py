"""Certificates, made and understood by a process of its own (`authority`) that ends when it has answered."""

from __future__ import annotations

import datetime
import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controller.tls import Pair
from resultsfs.errors import InvalidSetting

LIFE = datetime.timedelta(days=90)
"""How long a certificate holds; after two thirds of it a new one is made."""
_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Made:
    """A new pair, and the authorities (PEM) that a client is to trust: the new one, and those before that still hold."""

    pair: Pair
    bundle: bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a certificate: when it expires, when it is to be replaced, whether an authority of the bundle signed it."""

    expiry: datetime.datetime
    renewal: datetime.datetime
    signed: bool


def make(hosts: Sequence[str], life: datetime.timedelta = LIFE, bundle: bytes = b"") -> Made:
    """A server certificate for these DNS names and addresses, by a new authority. Raises InvalidSetting."""
    answer = _ask("make", hosts=list(hosts), life=life.total_seconds(), bundle=bundle.decode("ascii", "replace"))
    pair = Pair(answer["certificate"].encode(), answer["key"].encode())
    return Made(pair, answer["bundle"].encode())


@functools.lru_cache(maxsize=16)
def facts(certificate: bytes, bundle: bytes = b"") -> Facts:
    """What a certificate (PEM) says. Raises InvalidSetting for one that is none."""
    answer = _ask("know", certificate=certificate.decode("ascii", "replace"), bundle=bundle.decode("ascii", "replace"))
    expiry, renewal = (datetime.datetime.fromisoformat(answer[key]) for key in ("expiry", "renewal"))
    return Facts(expiry, renewal, answer["signed"])


def _ask(what: str, **request: Any) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "controller.authority"]
    text = json.dumps({"what": what, **request})
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise InvalidSetting(f"certificate: no answer within {_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise InvalidSetting(f"certificate: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
