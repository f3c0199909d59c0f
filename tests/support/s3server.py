"""A real S3 server for tests, one process for a test session; see `rclone.py` for which, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.rclone import S3Server, environment, serving

__all__ = ["S3Server", "s3_server"]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server, with its credentials in this process's environment; gone with its data after the session."""
    home = tmp_path_factory.mktemp("s3")
    with serving(home) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(home).items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        yield server
