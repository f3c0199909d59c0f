"""What the holder's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.holder import Stage
from tests.support.holder import stage as staged


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A place for a holder and servers; nothing runs yet."""
    with staged() as made:
        yield made


@pytest.fixture
def both(stage: Stage) -> Stage:
    """One holder and one server."""
    stage.holder()
    stage.server()
    return stage
