"""Content is put back where references stand: once, typed, within the limit, or with a message that helps."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs.errors import ContentMismatch, ContentMissing, ResolveError, StoreUnavailable
from resultsfs.record import ResultValue
from resultsfs.reference import PREFIX, Reference
from resultsfs.resolve import Content, Resolution, StoredContent, assembled, resolve
from resultsfs.settings import Settings
from resultsfs.store import Key, Store
from resultsfs.typed import text_of, unmarshalled

RUN = uuid.UUID("0f0e0d0c-0b0a-0908-0706-050403020100")


class Held(Content):
    """Content in a dictionary, which counts what is asked of it."""

    def __init__(self) -> None:
        self.contents: dict[Reference, bytes] = {}
        self.asked: list[str] = []

    def put(self, content: bytes | str) -> str:
        """Hold content; its reference."""
        data = content.encode() if isinstance(content, str) else content
        reference = Reference.of(RUN, hashlib.sha256(data).hexdigest())
        self.contents[reference] = data
        return str(reference)

    def size(self, reference: Reference) -> int:
        """As `Content.size`."""
        self.asked.append("size")
        return len(self._get(reference))

    def fetch(self, reference: Reference, limit: int) -> bytes:
        """As `Content.fetch`."""
        self.asked.append("fetch")
        return self._get(reference)[:limit]

    def _get(self, reference: Reference) -> bytes:
        if reference not in self.contents:
            raise ContentMissing(f"no content {reference}")
        return self.contents[reference]


@pytest.fixture
def held() -> Held:
    """Empty content."""
    return Held()


def put_back(
    content: Content,
    *params: tuple[str, ResultValue],
    spec: Any = None,
    as_path: bool = False,
    limit: int = 1000,
) -> Resolution:
    """Resolve with the usual label."""
    return resolve(params, spec, content, as_path=as_path, limit=limit, label="build")


def test_types_are_kept(held: Held) -> None:
    """A string, an array's elements and an object's properties are put back one by one, in their places."""
    a, b = held.put("alpha"), held.put("beta")
    resolution = put_back(held, ("s", a), ("l", ["x", b, a]), ("o", {"k": b, "plain": "p"}))
    assert resolution.params == (("s", "alpha"), ("l", ["x", "beta", "alpha"]), ("o", {"k": "beta", "plain": "p"}))


def test_inside_longer_text(held: Held) -> None:
    """References are found inside a longer string, several of them, also without anything between."""
    a, b = held.put("A"), held.put("B")
    assert put_back(held, ("p", f"--x={a},{b}{a}!")).params == (("p", "--x=A,BA!"),)


def test_task_spec_is_resolved_too(held: Held) -> None:
    """Strings anywhere in an embedded task spec are resolved; keys and other values stay."""
    a = held.put("alpha")
    spec = {"steps": [{"script": f"echo {a}", "args": [a], "timeout": None, "n": 1}], "params": [{"default": a}]}
    resolution = put_back(held, spec=spec)
    expected = {"steps": [{"script": "echo alpha", "args": ["alpha"], "timeout": None, "n": 1}]}
    assert resolution.task_spec == expected | {"params": [{"default": "alpha"}]}
    assert [item.where for item in resolution.put_back] == [
        "taskSpec.steps[0].script",
        "taskSpec.steps[0].args[0]",
        "taskSpec.params[0].default",
    ]


def test_put_in_is_not_scanned_again(held: Held) -> None:
    """Content that is itself a reference stays as it is: one pass, as Tekton substitutes."""
    inner = held.put("never seen")
    outer = held.put(inner)
    assert put_back(held, ("p", outer)).params == (("p", inner),)


def test_each_content_is_fetched_once(held: Held) -> None:
    """Five occurrences of one content cost one question for its size and one fetch."""
    a = held.put("alpha")
    put_back(held, ("p", [a, a, a]), ("q", a + a))
    assert held.asked == ["size", "fetch"]


def test_the_record_says_what_was_put_back(held: Held) -> None:
    """Each occurrence is recorded with its param, SHA-256 and size."""
    a = held.put("alpha")
    (record,) = put_back(held, ("p", a)).put_back
    assert (record.where, record.sha256, record.size) == ("params.p", hashlib.sha256(b"alpha").hexdigest(), 5)


def test_each_occurrence_counts_against_the_limit(held: Held) -> None:
    """Ten bytes twice fit a limit of twenty and not one of nineteen, and then nothing is fetched."""
    a = held.put("x" * 10)
    assert put_back(held, ("p", a + a), limit=20).params == (("p", "x" * 20),)
    held.asked.clear()
    with pytest.raises(ResolveError):
        put_back(held, ("p", a + a), limit=19)
    assert "fetch" not in held.asked


def test_too_large_names_everything(held: Held) -> None:
    """The message names pipeline task, the largest param, its size, the limit, and the annotation that helps."""
    small, large = held.put("s"), held.put("x" * 5000)
    with pytest.raises(ResolveError) as caught:
        put_back(held, ("little", small), ("report", large), limit=1000)
    for part in ('"build"', '"report"', "5000 bytes", "1000 bytes", "param-inline-limit", "params-as-path"):
        assert part in str(caught.value)
    assert not getattr(caught.value, "temporary", False)


def test_unknown_content(held: Held) -> None:
    """A reference to nothing names the param and says that it is unknown or expired."""
    gone = str(Reference.of(RUN, "00" * 32))
    with pytest.raises(ResolveError, match=r'"build": param "p": .*unknown or expired'):
        put_back(held, ("p", gone))


def test_not_utf8(held: Held) -> None:
    """Bytes that are no text cannot be a param: the way out is the path."""
    binary = held.put(b"\xff\xfe")
    with pytest.raises(ResolveError, match=r'param "p": .*not UTF-8.*params-as-path'):
        put_back(held, ("p", binary))


def test_store_trouble_is_passed_on(held: Held) -> None:
    """A store that is away says so itself, so that a webhook can answer 503 and Tekton asks again."""

    class Away(Held):
        def size(self, reference: Reference) -> int:
            raise StoreUnavailable("the store is away")

    with pytest.raises(StoreUnavailable) as caught:
        put_back(Away(), ("p", held.put("x")))
    assert caught.value.temporary


def test_damaged_content(held: Held) -> None:
    """Content with another digest or length is refused for good, naming the param."""

    class Damaged(Held):
        def fetch(self, reference: Reference, limit: int) -> bytes:
            raise ContentMismatch("wrong digest")

    damaged = Damaged()
    with pytest.raises(ResolveError, match=r'param "p": .*damaged'):
        put_back(damaged, ("p", damaged.put("x")))

    class Shorter(Held):
        def fetch(self, reference: Reference, limit: int) -> bytes:
            return super().fetch(reference, limit)[:-1]

    shorter = Shorter()
    with pytest.raises(ResolveError, match="damaged"):
        put_back(shorter, ("p", shorter.put("xyz")))


def test_policy_path_leaves_references(held: Held) -> None:
    """With the policy path a reference is a file to read: nothing is asked of the store, nothing counts."""
    a = held.put("x" * 100)
    resolution = put_back(held, ("p", f"in {a}"), ("l", [a]), spec={"steps": [a]}, as_path=True, limit=0)
    assert resolution.params == (("p", f"in {a}"), ("l", [a]))
    assert (resolution.task_spec, resolution.put_back, held.asked) == ({"steps": [a]}, (), [])


@pytest.mark.parametrize("as_path", [False, True])
def test_whole_array_expands(held: Held, as_path: bool) -> None:
    """An element `<reference>[*]` becomes the array's elements, under both policies."""
    whole = held.put(json.dumps(["1", "2", "3"])) + "[*]"
    assert put_back(held, ("l", ["0", whole, "4"]), as_path=as_path).params == (("l", ["0", "1", "2", "3", "4"]),)


@pytest.mark.parametrize("as_path", [False, True])
@pytest.mark.parametrize("where", ["string", "object", "inside", "spec"])
def test_whole_array_is_refused_elsewhere(held: Held, where: str, as_path: bool) -> None:
    """Anywhere but as an element of an array param, a whole array would be taken for one element: refused."""
    whole = held.put('["1"]') + "[*]"
    values: dict[str, ResultValue] = {"string": whole, "object": {"k": whole}, "inside": [f"x{whole}"], "spec": ""}
    value = values[where]
    spec = {"steps": [{"args": [whole]}]} if where == "spec" else None
    with pytest.raises(ResolveError, match="whole array"):
        put_back(held, ("p", value), spec=spec, as_path=as_path)


@pytest.mark.parametrize("content", ['{"a": "b"}', "[1, 2]", "[", '"text"'])
def test_whole_array_must_be_strings(held: Held, content: str) -> None:
    """Content that is no JSON array of strings cannot be expanded."""
    with pytest.raises(ResolveError, match="JSON array"):
        put_back(held, ("p", [held.put(content) + "[*]"]))


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (rb'["bad \ud800 end"]', "bad \ufffd end"),
        (rb'["\ud83d\ude00"]', "\U0001f600"),
        (b'["\xe2\x82"]', "\ufffd\ufffd"),
        (b"[null]", ""),
    ],
)
def test_whole_array_is_read_as_go_reads_it(held: Held, content: bytes, value: str) -> None:
    """Its elements are those that a smaller array has in status: lone surrogates, bytes that are no UTF-8, null."""
    reference = held.put(content)
    assert put_back(held, ("p", [f"{reference}[*]"])).params == (("p", [value]),)
    assert unmarshalled(text_of(content)) == [value]


def test_whole_array_too_deep_to_read(held: Held) -> None:
    """Nesting beyond all measure is no array of strings either."""
    with pytest.raises(ResolveError, match="JSON array"):
        put_back(held, ("p", [held.put("[" * 100_000) + "[*]"]), limit=1 << 20)


def test_whole_array_and_text(held: Held) -> None:
    """One content can be both, but text only where it is UTF-8."""
    reference = held.put('["a"]')
    assert put_back(held, ("p", [f"{reference}[*]", reference])).params == (("p", ["a", '["a"]']),)
    reference = held.put(b'["\xff"]')
    with pytest.raises(ResolveError, match="not UTF-8"):
        put_back(held, ("p", [f"{reference}[*]", reference]))


def test_whole_array_counts(held: Held) -> None:
    """A whole array counts with its content's size, and as a path too: the message offers the limit then."""
    whole = held.put(json.dumps(["x" * 100])) + "[*]"
    with pytest.raises(ResolveError, match=r"resultsfs\.dev/param-inline-limit"):
        put_back(held, ("p", [whole]), as_path=True, limit=50)


_values = st.one_of(
    st.text(), st.lists(st.text(), max_size=4), st.dictionaries(st.text(max_size=5), st.text(), max_size=4)
)


@given(st.lists(st.tuples(st.text(min_size=1), _values), max_size=5), st.booleans())
def test_without_references_nothing_changes(params: list[tuple[str, ResultValue]], as_path: bool) -> None:
    """Params without references come back as they were, and the store is not asked, whatever they hold."""
    content = Held()
    resolution = put_back(content, *params, spec={"x": [value for _, value in params]}, as_path=as_path)
    assert list(resolution.params) == params
    assert resolution.task_spec == {"x": [value for _, value in params]}
    assert content.asked == []


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.data())
def test_any_content_is_put_back_as_it_is(contents: list[str], data: st.DataObject) -> None:
    """Whatever contents hold, references to other contents included, the text is theirs exactly, in order."""
    content = Held()
    references = [content.put(text) for text in contents]
    contents = [*contents, *references, f"{PREFIX}{'A' * 22}"]
    references += [content.put(text) for text in contents[len(references) :]]
    chosen = data.draw(st.lists(st.integers(0, len(contents) - 1), max_size=8))
    between = data.draw(
        st.lists(st.sampled_from(["", " ", "$(", PREFIX, "\n"]), min_size=len(chosen) + 1, max_size=len(chosen) + 1)
    )
    text = between[0] + "".join(references[at] + gap for at, gap in zip(chosen, between[1:], strict=True))
    expected = between[0] + "".join(contents[at] + gap for at, gap in zip(chosen, between[1:], strict=True))
    assert put_back(content, ("p", text), limit=1 << 20).params == (("p", expected),)


@pytest.fixture
def store() -> Iterator[Store]:
    """A real store in memory."""
    opened = Store.open(Settings(store=f"memory://{uuid.uuid4().hex}", store_retries=0))
    yield opened
    opened.close()


def test_with_a_real_store(store: Store) -> None:
    """Content of a real store is put back for its namespace, and is unknown to another."""
    data = b"a report"
    reference = Reference.of(RUN, hashlib.sha256(data).hexdigest())
    store.put(Key.of("team-a", reference), lambda: iter([data]), len(data))
    assert put_back(StoredContent(store, "team-a"), ("p", str(reference))).params == (("p", "a report"),)
    with pytest.raises(ResolveError, match="unknown or expired"):
        put_back(StoredContent(store, "team-b"), ("p", str(reference)))


def test_a_reader_is_told_in_words_of_reading(held: Held) -> None:
    """Who reads a value hears of no params and annotations, but of the value's name and what can be read instead."""
    whole, text = held.put('["1"]') + "[*]", held.put("x" * 100)
    cases = (f"x-{whole}", ["Read the array itself", whole]), ([text, text], ["200 bytes", "one by one"])
    for value, words in cases:
        with pytest.raises(ResolveError) as raised:
            assembled(value, held, limit=150, label="run first")
        for word in ("run first: ", *words):
            assert word in str(raised.value)
        assert "param" not in str(raised.value) and "pipeline task" not in str(raised.value)
    assert assembled([whole, text], held, limit=150, label="run first") == ["1", "x" * 100]
