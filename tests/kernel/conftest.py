"""What the tests of taking over share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.takeover import TakenOver, taken_over


@pytest.fixture
def plain() -> Iterator[TakenOver]:
    """A volume for what does not depend on how content travels."""
    with taken_over() as found:
        yield found
