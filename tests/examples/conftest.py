"""What the tests of the examples share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import Runner


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A Runner whose store and history are this test's own."""
    return Runner(tmp_path)
