"""What strangers' queries may cost: they share a container with admission, which must not be killed for them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from controller.api import query, routes
from controller.api.errors import Problem
from controller.api.limits import Slots
from tests.support.chart import CHART

ITSELF = 100_000_000
"""Bytes of a replica with admission at work: docs/controller.md, Figures."""


def test_a_query_stays_within_its_memory() -> None:
    """Content that is nothing but lists, of the largest size, is refused, and the process never had more than MEMORY."""
    program = """
import resource
from controller.api import query
from controller.api.errors import Problem
try:
    query.matches(b"[" + b"[]," * ((query.CONTENT_LIMIT - 4) // 3) + b"[]]", "$..*")
except Problem as problem:
    print(problem.status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    status, kibibytes = (int(word) for word in done.stdout.split())
    assert status == 422
    assert kibibytes << 10 <= query.MEMORY


def test_ordinary_content_of_the_largest_size_is_searched() -> None:
    """The limits fit each other: a table of the size that is allowed is parsed and searched within MEMORY."""
    row = {"name": "item", "value": 1.5, "ok": True, "labels": {"a": "x" * 10, "b": "12345"}}
    rows = [row] * (query.CONTENT_LIMIT // (len(json.dumps(row)) + 2))
    data = json.dumps([*rows, {"name": "last", "value": 2}]).encode()[: query.CONTENT_LIMIT + 100]
    assert json.loads(query.matches(data, "$[?@.value>1.9].name")) == ["last"]


def test_what_matches_is_bounded_too() -> None:
    """A query that repeats its content is refused with the size of what it would have sent."""
    content = json.dumps([[[["x" * 3_000_000]]]]).encode()
    with pytest.raises(Problem, match="bytes, and 8388608 are allowed") as caught:
        query.matches(content, "$..*")
    assert caught.value.status == 422


def test_all_that_is_done_at_once_fits_the_charts_limit() -> None:
    """One query, one array that is put together, all answers that wait to be sent, and the replica itself."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    text = values["controller"]["resources"]["limits"]["memory"]
    assert text.endswith("Mi")
    assembling = routes.ASSEMBLED_LIMIT * routes.ASSEMBLING
    waiting = routes.WAITING * max(routes.ASSEMBLED_LIMIT, query.ANSWER_LIMIT)
    assert query.MEMORY + assembling + waiting + ITSELF <= int(text[:-2]) << 20


def test_half_of_the_slots_are_one_callers() -> None:
    """The third of one caller is 429, the fifth of all is 503, each with when to come again; what ends makes room."""
    slots = Slots(lambda: 4, "searched or put together")
    with slots.one("a"), slots.one("a"):
        with pytest.raises(Problem) as caught, slots.one("a"):
            pass
        assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "2"})
        with slots.one("b"), slots.one("b"):
            with pytest.raises(Problem) as caught, slots.one("c"):
                pass
            assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "2"})
    with slots.one("a"):
        pass
