"""Which store a URL names, and what is said of one that names none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from resultsfs.errors import InvalidSetting
from resultsfs.settings import Settings
from resultsfs.store import Store, default_url


@pytest.mark.parametrize(
    ("url", "way_out"),
    [
        ("ftp://host/dir", "expected one of file, memory, s3"),
        ("s3://", "expected s3://bucket"),
        ("s3:///prefix", "expected s3://bucket"),
        ("s3://bucket/a/../b", "without empty parts"),
        ("s3://bucket//a", "without empty parts"),
        ("s3://bucket/a?versionId=1", r"no \? or #"),
        ("s3://bucket/a#b", r"no \? or #"),
        ("file://host/dir", "file:///directory"),
        ("file:///", "file:///directory"),
        ("file:dir", "file:///directory"),
    ],
)
def test_bad_urls_are_named(url: str, way_out: str) -> None:
    """A URL that names no store is refused when it is opened; the message has the URL and what is expected."""
    with pytest.raises(InvalidSetting, match=way_out) as caught:
        Store.open(Settings(store=url))
    assert repr(url) in str(caught.value)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    """Credentials do not belong in a URL, and the message does not spread them."""
    with pytest.raises(InvalidSetting, match="environment or a profile") as caught:
        Store.open(Settings(store="s3://key:secret@bucket"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "library", "extra"), [("gs", "gcsfs", "gs"), ("abfs", "adlfs", "abfs")])
def test_a_missing_extra_is_named(scheme: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library of a scheme the message says what to install, or how to build an image that has it."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else found(name))
    with pytest.raises(InvalidSetting, match=rf"pip install 'resultsfs\[{extra}\]', .* --build-arg STORES={extra}$"):
        Store.open(Settings(store=f"{scheme}://bucket"))


def test_the_default_is_in_the_users_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_DATA_HOME is honoured when absolute, else ~/.local/share is taken."""
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_url() == "file:///data/resultsfs/store"
    assert Store.open(Settings()).url == "file:///data/resultsfs/store"
    monkeypatch.setenv("HOME", "/home/someone")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", ignored)
        assert default_url() == "file:///home/someone/.local/share/resultsfs/store"


def test_nothing_is_loaded_before_the_first_request() -> None:
    """Importing the store and opening an S3 one loads neither fsspec nor a client, and starts no thread."""
    program = (
        "import sys, threading; from resultsfs.store import Store; from resultsfs.settings import Settings;"
        "Store.open(Settings(store='s3://bucket'));"
        "heavy = {'fsspec', 's3fs', 'botocore', 'aiohttp', 'asyncio'} & set(sys.modules);"
        "assert threading.active_count() == 1; print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert set(eval(done.stdout)) <= {"asyncio"}  # tenacity loads that
