"""Tekton's own programs, built from its published Go module, once for a version and kept outside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import tekton


@pytest.fixture(scope="session")
def tekton_programs() -> dict[str, Path]:
    """`entrypoint` and `sidecarlogresults`."""
    try:
        return {name: tekton.program(name) for name in ("entrypoint", "sidecarlogresults")}
    except tekton.NoGo as error:
        pytest.skip(str(error))
