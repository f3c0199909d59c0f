"""References: their form, and that nothing else is taken for one."""

from __future__ import annotations

import hashlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs.errors import InvalidReference
from resultsfs.reference import LENGTH, PREFIX, Reference, find

references = st.builds(Reference, st.uuids(), st.binary(min_size=32, max_size=32))


@given(references)
def test_a_reference_survives_its_text(reference: Reference) -> None:
    """Path, name and SHA-256 in hex all lead back to the same reference."""
    text = str(reference)
    assert Reference.match(text) == reference
    assert Reference.from_name(reference.name) == reference
    assert Reference.parse(text) == Reference.parse(reference.name) == reference
    assert Reference.of(reference.run, reference.sha256) == reference


@given(references)
def test_the_form_is_plain(reference: Reference) -> None:
    """87 bytes of ASCII, with nothing that JSON escapes or that Tekton would substitute."""
    text = str(reference)
    assert len(text.encode()) == LENGTH == 87
    assert text.isascii() and text.isprintable()
    assert not set(text) & set('$(<>& \n"\\')


def test_a_known_reference() -> None:
    """One reference, spelled out, so that the form can never change unnoticed."""
    run = UUID("01234567-89ab-cdef-0123-456789abcdef")
    digest = hashlib.sha256(b"content").hexdigest()
    expected = "/tekton/results/.ref/ASNFZ4mrze8BI0VniavN7w.7XACtDnprIRfIjV9giusFERzD722AW0-yUMil7nsn3M"
    assert str(Reference.of(run, digest)) == expected


@given(references, st.data())
def test_anything_else_is_the_users_own_text(reference: Reference, data: st.DataObject) -> None:
    """With a character more, less or another one it is no reference, or another one."""
    text = str(reference)
    at = data.draw(st.integers(0, len(text)))
    extra = data.draw(st.characters(codec="utf-8"))
    assert Reference.match(text[:at] + extra + text[at:]) is None
    assert Reference.match(text[: max(0, at - 1)] + text[at:]) is None or at == 0
    if at < len(text) and text[at] != extra:
        changed = Reference.match(text[:at] + extra + text[at + 1 :])
        assert changed is None or changed != reference


@given(references)
def test_only_one_spelling_is_canonical(reference: Reference) -> None:
    """The bits that the last characters do not carry must be zero: one content has one reference."""
    run, digest = reference.name.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [char for char in alphabet if char != digest[-1]]
    same = [char for char in others if Reference.from_name(f"{run}.{digest[:-1]}{char}") == reference]
    assert same == []
    same = [char for char in alphabet if Reference.from_name(f"{run[:-1]}{char}.{digest}") == reference]
    assert same == [run[-1]]


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="/")), references, st.booleans()), max_size=5))
def test_references_are_found_in_text(parts: list[tuple[str, Reference, bool]]) -> None:
    """All references in a longer text are found in order, with the `[*]` behind them, and nothing else."""
    text = "".join(f"{before} {reference}{'[*]' if whole else ''} " for before, reference, whole in parts)
    found = list(find(text))
    assert [occurrence.reference for occurrence in found] == [reference for _, reference, _ in parts]
    assert [occurrence.whole_array for occurrence in found] == [whole for _, _, whole in parts]
    for occurrence in found:
        spelled = str(occurrence.reference) + ("[*]" if occurrence.whole_array else "")
        assert text[occurrence.start : occurrence.end] == spelled


def test_a_namespace_cannot_be_smuggled_in() -> None:
    """Nothing that could climb out of `.ref` is a reference."""
    name = Reference(UUID(int=1), b"\0" * 32).name
    for text in (f"../{name}", f"{name}/..", f"other/{name}", f"{PREFIX}../{name}", f"{name}\n", f"{name}\0"):
        assert Reference.match(text) is None and Reference.from_name(text) is None


@pytest.mark.parametrize("text", ["", "IMAGES", "/tekton/results/IMAGES", PREFIX, PREFIX + "x.y"])
def test_a_bad_reference_is_named(text: str) -> None:
    """The error names the text and the form."""
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert repr(text) in str(caught.value) and "22 and 43" in str(caught.value)


def test_a_digest_has_32_bytes() -> None:
    """A reference cannot be made of another digest."""
    with pytest.raises(InvalidReference, match="32 bytes, this one 31"):
        Reference(UUID(int=0), b"\0" * 31)
