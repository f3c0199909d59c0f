"""Results that there are and that cannot be read: nobody takes them for absent."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from resultsfs.collector import Collector
from resultsfs.record import Mode

MakeBench = Callable[..., Any]


def fail(volume: Any, path: str, code: int, times: int = 1 << 30) -> None:
    """Have a file's opening fail, so often: no disk here breaks by order."""
    opened, left = volume.volume.open_path, [times]

    def open_path(asked: str) -> int:
        if asked == path and left[0] > 0:
            left[0] -= 1
            raise OSError(code, os.strerror(code), asked)
        descriptor: int = opened(asked)
        return descriptor

    volume.volume.open_path = open_path


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_what_cannot_be_read_is_an_error_not_an_absence(bench: MakeBench, code: int) -> None:
    """The collector gets the error, under each name of the file, from another server too; others are read; one Event each."""
    volume = bench()
    volume.write("a", b"value")
    volume.file("b").symlink_to("a")
    volume.write("c", b"fine")
    fail(volume, "/a", code)
    collector = Collector(os.getpid(), 1)
    collection = volume.volume.collection(collector)
    volume.stop()
    volume.start()
    for found in (collection, volume.volume.collection(collector)):
        for name in "ab":
            with pytest.raises(OSError, match=os.strerror(code)) as raised:
                found.read(name, lambda: False)
            assert raised.value.errno == code
        assert found.read("c", lambda: False) == b"fine"
    assert [(event.reason, event.result) for event in volume.host.events] == [
        ("ResultUnreadable", "a"),
        ("ResultUnreadable", "b"),
    ]
    assert errno.errorcode[code] in volume.host.events[0].message
    assert volume.collect() == {"a": b"value", "b": b"value", "c": b"fine"}


def test_sidecar_goes_without_what_cannot_be_read(bench: MakeBench) -> None:
    """Any error but ENOENT ends or hangs Tekton's sidecar: the Event alone tells of it."""
    volume = bench(mode=Mode.SIDECAR_LOGS)
    volume.write("a", b"value")
    volume.write("b", b"fine")
    fail(volume, "/a", errno.EIO)
    assert volume.collect() == {"b": b"fine"}
    assert volume.reasons() == ["ResultUnreadable"]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_short_want_of_resources_is_waited_out(bench: MakeBench, code: int) -> None:
    """Descriptors and memory come back: the result is asked for again before that is an error."""
    volume = bench()
    volume.write("a", b"value")
    fail(volume, "/a", code, times=2)
    assert volume.collect() == {"a": b"value"}
    assert volume.reasons() == []
