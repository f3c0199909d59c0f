"""Sizes and durations as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        (" 0 ", 0),
        ("90Ki", 90 << 10),
        ("90KiB", 90 << 10),
        ("10 GiB", 10 << 30),
        ("5MB", 5_000_000),
        ("5M", 5_000_000),
        ("1k", 1000),
        ("1.5Mi", 3 << 19),
        ("2TiB", 2 << 40),
        ("7B", 7),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    """Every documented spelling of a size gives its bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "ten", "1 XB", "1e3", "0.3", "1.0001Ki", "1 2", "MiB"])
def test_bad_sizes_say_what_is_allowed(text: str) -> None:
    """What is no size, or no whole number of bytes, is refused with the forms that are allowed."""
    with pytest.raises(ValueError, match="expected"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_exact_sizes_are_read_back(size: int) -> None:
    """A formatted size without a decimal point reads back exactly, one with it to within five per cent."""
    text = format_size(size)
    if "." not in text:
        assert parse_size(text) == size
    else:
        number, unit = text.split()
        assert abs(Fraction(number) * parse_size("1" + unit) - size) <= Fraction(5, 100) * parse_size("1" + unit)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("500ms", 0.5), ("1s", 1.0), ("5m", 300.0), ("1h30m", 5400.0), ("7d", 604_800.0), ("1.5s", 1.5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Every documented spelling of a duration gives its seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-1s", "1 s", "5 minutes", "1x", "s"])
def test_bad_durations_say_what_is_allowed(text: str) -> None:
    """What is no duration is refused with the forms that are allowed."""
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.integers(0, 10**10))
def test_durations_are_read_back(milliseconds: int) -> None:
    """Formatting a duration loses nothing down to the millisecond."""
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)
