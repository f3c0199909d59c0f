"""Arrays and objects: skeletons, whole-array references, and the types that decide."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resultsfs import message
from resultsfs.record import Keep, Mode, ResultType
from resultsfs.reference import WHOLE_ARRAY, Reference
from tests.support.waiting import DEADLINE

BIG = b"0123456789abcdef" * 20_000  # 320 KB

MakeBench = Callable[..., Any]


def test_array_becomes_a_skeleton(bench: MakeBench) -> None:
    """A large array keeps its arity: small elements stand, large ones are references to the elements' own bytes."""
    values = ["small", "x" * 30_000, "", "ünïcode" * 2000]
    volume = bench(types={"a": ResultType.ARRAY})
    volume.write("a", json.dumps(values).encode())
    read = json.loads(volume.collect()["a"])
    assert [read[0], read[2]] == ["small", ""]
    assert volume.content(read[1]).decode() == values[1]
    assert volume.content(read[3]).decode() == values[3]
    assert volume.manifest()["a"].type == "array"
    assert volume.host.asked_types == 1


def test_the_host_is_asked_when_a_collector_comes(bench: MakeBench) -> None:
    """Before that it may not know: a large array that was closed long ago is a skeleton by what the host says then."""
    values = ["x" * 5000, "y" * 4000]
    volume = bench()
    volume.host.types = None
    considered = threading.Event()
    consider = volume.volume._consider

    def noted(name: str, inode: int | None = None) -> None:
        consider(name, inode)
        if name == "c":  # the last of those that a closed file is looked up for
            considered.set()

    volume.volume._consider = noted
    volume.write("a", json.dumps(values).encode())
    assert considered.wait(DEADLINE)
    assert volume.host.asked_types == 0
    volume.host.types = {"a": ResultType.ARRAY}
    assert [volume.content(element).decode() for element in json.loads(volume.collect()["a"])] == values
    assert volume.reasons() == []


def test_no_answer_is_not_kept(bench: MakeBench) -> None:
    """Each collector asks again, once, until the types are known."""
    volume = bench(types={"a": ResultType.ARRAY, "b": ResultType.ARRAY})
    types, volume.host.types = volume.host.types, None
    for name in "ab":
        volume.write(name, json.dumps([name * 9000]).encode())
    assert all(Reference.match(value.decode()) for value in volume.collect().values())
    assert volume.host.asked_types == 1
    assert volume.reasons() == ["ResultTypeUnknown"] * 2
    volume.host.types = types
    for size in (8000, 7000):
        for name in "ab":
            volume.write(name, json.dumps([name * size, "small"]).encode())
        read = {name: json.loads(value) for name, value in volume.collect().items()}
        assert {volume.content(read[name][0]) for name in "ab"} == {b"a" * size, b"b" * size}
        assert volume.host.asked_types == 2


def test_object_becomes_a_skeleton(bench: MakeBench) -> None:
    """A large object keeps all its keys."""
    volume = bench(types={"a": ResultType.OBJECT})
    volume.write("a", json.dumps({"url": "https://example.org", "body": "y" * 9000}).encode())
    read = json.loads(volume.collect()["a"])
    assert list(read) == ["url", "body"]
    assert read["url"] == "https://example.org"
    assert volume.content(read["body"]) == b"y" * 9000


def test_type_is_asked_for_whatever_plan_spills_a_result(bench: MakeBench) -> None:
    """An array is known as one too if only the plan made with another result's type, which saves less, spills it."""
    array, properties = ["x" * 600, "", "y" * 700, "z" * 800], {"url": "u" * 2000, "digest": "d" * 200}
    volume = bench(types={"a": ResultType.ARRAY, "b": ResultType.OBJECT})
    volume.write("a", json.dumps(array).encode())
    volume.write("b", json.dumps(properties).encode())

    def content(text: str) -> str:
        return volume.content(text).decode() if Reference.match(text) else text

    read = {name: json.loads(value) for name, value in volume.collect().items()}
    assert [content(text) for text in read["a"]] == array
    assert {key: content(text) for key, text in read["b"].items()} == properties


def test_wide_array_becomes_a_whole_array_reference(bench: MakeBench) -> None:
    """Where even the skeleton does not fit, one element stands for the whole array."""
    content = json.dumps(["x" * 100] * 500).encode()
    volume = bench(types={"a": ResultType.ARRAY})
    volume.write("a", content)
    read = json.loads(volume.collect()["a"])
    assert len(read) == 1
    assert read[0].endswith(WHOLE_ARRAY)
    assert volume.content(read[0].removesuffix(WHOLE_ARRAY)) == content


@pytest.mark.parametrize("size", [60, 100, 300])
def test_matrix_array_never_becomes_a_whole_array_reference(bench: MakeBench, size: int) -> None:
    """Used in a matrix, a wide array fails visibly rather than become one element."""
    volume = bench(types={"a": ResultType.ARRAY}, kept={"a": Keep.SKELETON})
    volume.write("a", json.dumps(["x" * size] * 500).encode())
    read = volume.collect()
    assert len(message.encode(read.items())) > message.LIMIT
    assert volume.reasons() == ["ResultTooLarge"]
    assert "needs its 500 elements" in volume.host.events[0].message


def test_wide_object_fails_by_tekton_s_limit(bench: MakeBench) -> None:
    """An object whose keys alone do not fit is served as it is, one byte beyond the limit, with an Event."""
    volume = bench(types={"a": ResultType.OBJECT})
    volume.write("a", json.dumps({f"key-{at}": "v" for at in range(2000)}).encode())
    assert len(volume.collect()["a"]) == message.LIMIT + 1
    assert volume.reasons() == ["ResultTooLarge"]


@pytest.mark.parametrize("mode", list(Mode))
def test_wide_object_of_references_fails_by_tekton_s_limit(bench: MakeBench, mode: Mode) -> None:
    """So does one whose values are all spilled, and whose keys with the references do not fit."""
    volume = bench(types={"a": ResultType.OBJECT}, mode=mode)
    volume.write("a", json.dumps({f"key-{at}": "v" * (200 + at) for at in range(60)}).encode())
    read = volume.collect()
    assert len(message.encode(read.items())) > message.LIMIT
    assert volume.reasons() == ["ResultTooLarge"]
    event = volume.host.events[0]
    assert event.result == "a"
    assert "an object keeps its 60 keys" in event.message
    assert "inline" not in event.message


@pytest.mark.parametrize("content", [b'[1, 2, "' + b"x" * 9000 + b'"]', b'["' + b"x" * 9000])
def test_malformed_array_fails_as_in_stock_tekton(bench: MakeBench, content: bytes) -> None:
    """Content that is no JSON array of strings is not spilled, and an Event says so."""
    volume = bench(types={"a": ResultType.ARRAY})
    volume.write("a", content)
    assert len(volume.collect()["a"]) == message.LIMIT + 1
    assert "ResultMalformed" in volume.reasons()


def test_string_that_holds_json_is_spilled_whole(bench: MakeBench) -> None:
    """The declared type counts, not the look of the content."""
    content = json.dumps(["x" * 9000, "y"]).encode()
    volume = bench(types={"a": ResultType.STRING})
    volume.write("a", content)
    assert volume.content(volume.collect()["a"]) == content


def test_unknown_types_count_as_strings_with_an_event(bench: MakeBench) -> None:
    """Without an answer about types the content is a string, and an Event says so."""
    volume = bench()
    volume.host.types = None
    volume.write("a", json.dumps(["x" * 9000]).encode())
    assert Reference.match(volume.collect()["a"].decode()) is not None
    assert volume.reasons() == ["ResultTypeUnknown"]


def test_array_beyond_the_skeleton_limit_is_referred_to_whole(bench: MakeBench) -> None:
    """An array too large to be taken apart in memory becomes a whole-array reference."""
    content = json.dumps(["x" * 5000] * 4).encode()
    volume = bench(types={"a": ResultType.ARRAY}, skeleton_size_limit=8192)
    volume.write("a", content)
    read = json.loads(volume.collect()["a"])
    assert volume.content(read[0].removesuffix(WHOLE_ARRAY)) == content


def test_json_like_results_wait_for_their_type(bench: MakeBench) -> None:
    """A large array is not uploaded whole in the background, for its elements are what will be stored."""
    volume = bench(types={"a": ResultType.ARRAY})
    content = json.dumps(["x" * 9000]).encode()
    volume.write("a", content)
    volume.collect()
    digests = {digest for digest, _ in volume.store.contents("default", volume.record.run_uid)}
    assert digests == {hashlib.sha256(b"x" * 9000).hexdigest()}


def test_millions_of_tiny_elements_are_not_taken_apart(bench: MakeBench) -> None:
    """An array whose skeleton cannot fit for its number of elements alone is referred to whole, without parsing it."""
    content = b"[" + b",".join([b'""'] * 2_000_000) + b"]"
    volume = bench(types={"a": ResultType.ARRAY})
    volume.write("a", content)
    read = json.loads(volume.collect()["a"])
    assert volume.content(read[0].removesuffix(WHOLE_ARRAY)) == content


def test_null_is_an_empty_element(bench: MakeBench) -> None:
    """Go reads null into an array of strings as the empty string, so it does not make the array malformed."""
    volume = bench(types={"a": ResultType.ARRAY})
    volume.write("a", json.dumps(["y" * 3000, None, "z" * 3000]).encode())
    read = json.loads(volume.collect()["a"])
    assert read[1] == ""
    assert {len(volume.content(value)) for value in (read[0], read[2]) if Reference.match(value)} == {3000}
