"""Servers told to end hundreds of times under load, as for an upgrade: no client notices."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.load import end_under_load
from tests.support.takeover import WAYS

pytestmark = [
    pytest.mark.mount,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root"),
]


@pytest.mark.parametrize("way", list(WAYS))
def test_replaced_under_load(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    """200 servers are told to end at random moments, of a holder's volume, while files are written in every manner, made,
    renamed, removed, listed, collected and read by reference: zero errors, zero hung processes, zero wrong bytes."""
    end_under_load(way, signal.SIGTERM, capsys)
