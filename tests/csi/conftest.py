"""Nodes for the tests of the driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import Node, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that starts a node needs root."""
    for item in items:
        if item.path.parent == Path(__file__).parent and {"node", "fresh_node"} & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.mount)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="mounts directly, which takes root"))


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """One node for all tests of a worker that do no harm to it."""
    with running() as found:
        yield found


@pytest.fixture
def fresh_node() -> Iterator[Node]:
    """A node that a test may harm."""
    with running() as found:
        yield found
