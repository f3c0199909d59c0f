"""What is kept of open files for a server that takes over."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from resultsfs.kernel.protocol import RESEND
from resultsfs.kernel.slots import EPOCH, Intent, Kind, Slot, Slots


def test_what_is_noted_is_found(tmp_path: Path) -> None:
    """Another server finds every handle with all that belongs to it, the oldest first, and none that was closed."""
    slots = [
        Slot(number, number + 100, 7, os.O_RDWR, 3, number % 3, Kind.FILE, number % 2) for number in range(1, 3000)
    ]
    shown = Slot(5000, 1 << 40, 0xFFFF << 48, os.O_RDONLY, 1, 0, Kind.PUBLICATION, 0, 4711, 1 << 50, 12)
    with closing(Slots(tmp_path / "handles")) as first:
        for slot in [*slots, shown]:
            first.note(slot)
        for slot in slots[:2000]:
            first.drop(slot.fh)
        assert len(first) == 1000
    with closing(Slots(tmp_path / "handles")) as second:
        assert second.found == [*slots[2000:], shown]
        assert second.epoch == first.epoch + 1
        assert (second.epoch << EPOCH) > max(slot.fh for slot in second.found)


@given(st.permutations(range(1, 20)))
def test_the_last_one_noted_is_known(order: list[int]) -> None:
    """Which handle was noted last is known, whatever its number: it may have waited for long."""
    path = Path(f"/proc/self/fd/{os.memfd_create('handles')}")
    with closing(Slots(path)) as first:
        for number in order:
            first.note(Slot(number, number, 7, 0, 0))
    with closing(Slots(path)) as second:
        assert second.last is not None
        assert second.last.fh == order[-1]
        assert [slot.fh for slot in second.found] == sorted(order)
    os.close(int(path.name))


def test_the_backing_file_that_was_about_to_go_is_known(tmp_path: Path) -> None:
    """The backing id of the handle that was closed last is known, and forgotten when another one is opened."""
    with closing(Slots(tmp_path / "handles")) as first:
        for number in range(1, 4):
            first.note(Slot(number, number, 7, 0, 0, number + 10))
        first.drop(2, 12)
        first.drop(1, 11)
    with closing(Slots(tmp_path / "handles")) as second:
        assert second.closing == 11
        second.note(Slot(9, 9, 9, 0, 0, 14))
    with closing(Slots(tmp_path / "handles")) as third:
        assert third.closing == 0


def test_intents_are_of_one_request(tmp_path: Path) -> None:
    """What a request was about to do is told for that very request, come again, and for no other."""
    with closing(Slots(tmp_path / "handles")) as first:
        first.intend(42, Intent.EXCHANGE, 1 << 60, 2 << 60)
    with closing(Slots(tmp_path / "handles")) as second:
        assert second.intended(42 | RESEND, Intent.EXCHANGE) == (1 << 60, 2 << 60)
        assert second.intended(44 | RESEND, Intent.EXCHANGE) is None
        assert second.intended(42 | RESEND, Intent.APPEND) is None
