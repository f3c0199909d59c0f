"""Putting content back where references stand in a TaskRun that is about to be created.

One pass over the raw text, as Tekton substitutes: no escaping, references inside longer strings too, and what
was put in is never scanned again. Types are kept: an array's elements and an object's properties are put back
one by one. An array element that is exactly `<reference>[*]` stands for the elements of a whole array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from resultsfs.errors import ContentMismatch, ContentMissing, ResolveError
from resultsfs.record import ResultValue
from resultsfs.reference import WHOLE_ARRAY, Occurrence, Reference, find
from resultsfs.store import Key, Store
from resultsfs.typed import text_of, unmarshalled
from resultsfs.units import format_size
from resultsfs.variables import strings

PATH_ANNOTATION = "resultsfs.dev/params-as-path"
LIMIT_ANNOTATION = "resultsfs.dev/param-inline-limit"
_PATH_WAY_OUT = f'To be given the path of a file to read instead, set the annotation {PATH_ANNOTATION}: "true".'

Params = Sequence[tuple[str, ResultValue]]
"""A TaskRun's params, in order."""


class Content(Protocol):
    """Spilled content as one namespace may read it.

    Both raise ContentMissing for what is not there, ContentMismatch for what is damaged, and another
    StoreError when the store cannot answer (its `temporary` says whether asking again can help).
    """

    def size(self, reference: Reference) -> int:
        """Bytes of the content."""

    def fetch(self, reference: Reference, limit: int) -> bytes:
        """The whole content, verified; it has at most `limit` bytes."""


@dataclass(frozen=True, slots=True)
class StoredContent:
    """What a store holds for one namespace, which somebody entitled to says."""

    store: Store
    namespace: str

    def size(self, reference: Reference) -> int:
        """As `Content.size`."""
        return self.store.size(Key.of(self.namespace, reference))

    def fetch(self, reference: Reference, limit: int) -> bytes:
        """As `Content.fetch`."""
        return self.store.fetch(Key.of(self.namespace, reference), limit)


@dataclass(frozen=True, slots=True)
class PutBack:
    """One content that was put back: `where` is `params.<name>` or a path in `taskSpec`; `size` in bytes."""

    where: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Resolution:
    """A TaskRun's params and embedded task spec with content put back, and the record of it."""

    params: tuple[tuple[str, ResultValue], ...]
    task_spec: Any
    put_back: tuple[PutBack, ...]


@dataclass(frozen=True, slots=True)
class _Site:
    """A text that holds references: `label` for people, `where` for the record; `element` of an array param."""

    label: str
    where: str
    text: str
    element: bool = False


def resolve(
    params: Params,
    task_spec: Any,
    content: Content,
    *,
    as_path: bool,
    limit: int,
    label: str,
    tree_name: str = "taskSpec",
) -> Resolution:
    """Put content back into `params` and the embedded `task_spec` (a JSON tree, or None).

    `limit` is `param-inline-limit`: bytes of content that may go into one TaskRun, every occurrence counted.
    With `as_path` a reference is left as it is, for it is the path of a file; `<reference>[*]` is no path, and
    as an element it would be taken for one, so a whole array is put back all the same. `label` is the pipeline
    task or TaskRun for messages, `tree_name` what `task_spec` is called where it is something else.

    Raises ResolveError for what can never be put back, and StoreError other than ContentMissing and
    ContentMismatch unchanged: then nothing is known about the content, and asking again may help.
    """
    resolver = _Resolver(content, as_path, limit, label)
    resolver.gather(params, task_spec, tree_name)
    resolver.load()
    return Resolution(
        params=tuple((name, resolver.value(value)) for name, value in params),
        task_spec=resolver.tree(task_spec),
        put_back=resolver.record(),
    )


def assembled(value: ResultValue, content: Content, *, limit: int, label: str) -> ResultValue:
    """A value with content in place of its references, for somebody who reads it: `label` names it in messages.

    Raises as `resolve` does, in words for a reader; `limit` in bytes.
    """
    reader = _Reader(content, False, limit, label)
    reader.gather([(label, value)], None, "")
    reader.load()
    return reader.value(value)


def _sites(params: Params, task_spec: Any, tree_name: str) -> Iterator[_Site]:
    for name, value in params:
        label, where = f'param "{name}"', f"params.{name}"
        if isinstance(value, list):
            yield from (_Site(label, where, text, element=True) for text in value)
        else:
            yield from (_Site(label, where, text) for _, text in strings(value))
    for path, text in strings(task_spec):
        yield _Site(f"{tree_name}.{path}", f"{tree_name}.{path}", text)


class _Resolver:
    _needs_text = f"param must be. {_PATH_WAY_OUT}"

    def __init__(self, content: Content, as_path: bool, limit: int, label: str) -> None:
        self._content = content
        self._as_path = as_path
        self._limit = limit
        self._label = label
        self._found: list[tuple[_Site, Occurrence]] = []
        self._sizes: dict[Reference, int] = {}
        self._data: dict[Reference, bytes] = {}
        self._texts: dict[Reference, str] = {}
        self._arrays: dict[Reference, list[str]] = {}

    def gather(self, params: Params, task_spec: Any, tree_name: str) -> None:
        for site in _sites(params, task_spec, tree_name):
            for occurrence in find(site.text):
                if occurrence.whole_array:
                    whole = occurrence.start == 0 and occurrence.end == len(site.text)
                    if not (site.element and whole):
                        raise self._error(site, self._stray(f"{occurrence.reference}{WHOLE_ARRAY}"))
                elif self._as_path:
                    continue
                self._found.append((site, occurrence))

    def load(self) -> None:
        """Sizes first, so that nothing is fetched for a TaskRun that is refused."""
        total = 0
        by_label: dict[str, int] = {}
        for site, occurrence in self._found:
            size = self._size(site, occurrence.reference)
            total += size
            by_label[site.label] = by_label.get(site.label, 0) + size
        if total > self._limit:
            raise self._too_large(total, by_label)
        for site, occurrence in self._found:
            self._fetch(site, occurrence.reference)
            if occurrence.whole_array:
                self._read_array(site, occurrence.reference)
            else:
                self._read_text(site, occurrence.reference)
        self._data.clear()

    def _size(self, site: _Site, reference: Reference) -> int:
        if reference not in self._sizes:
            try:
                self._sizes[reference] = self._content.size(reference)
            except ContentMissing:
                raise self._missing(site, reference) from None
        return self._sizes[reference]

    def _fetch(self, site: _Site, reference: Reference) -> None:
        if reference in self._data:
            return
        size = self._sizes[reference]
        try:
            data = self._content.fetch(reference, size)
            if len(data) != size:
                raise ContentMismatch(f"{reference} has {len(data)} bytes where the store said {size}")
        except ContentMissing:
            raise self._missing(site, reference) from None
        except ContentMismatch as error:
            raise self._error(
                site, f"the content of {reference} is damaged ({error}); run the task that wrote it again"
            ) from None
        self._data[reference] = data

    def _read_text(self, site: _Site, reference: Reference) -> None:
        if reference in self._texts:
            return
        try:
            self._texts[reference] = self._data[reference].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(
                site,
                f"the content of {reference} ({format_size(self._sizes[reference])}) is not UTF-8 text (byte "
                f"{error.start}), which a {self._needs_text}",
            ) from None

    def _read_array(self, site: _Site, reference: Reference) -> None:
        if reference in self._arrays:
            return
        items = unmarshalled(text_of(self._data[reference]))
        if not isinstance(items, list):
            raise self._error(site, f"the content of {reference} is not a JSON array of strings")
        self._arrays[reference] = items

    def value(self, value: ResultValue) -> ResultValue:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {key: self._text(text) for key, text in value.items()}
        items: list[str] = []
        for text in value:
            only = next(find(text), None)
            if only is not None and only.whole_array:
                items.extend(self._arrays[only.reference])
            else:
                items.append(self._text(text))
        return items

    def tree(self, tree: Any) -> Any:
        if isinstance(tree, str):
            return self._text(tree)
        if isinstance(tree, Mapping):
            return {key: self.tree(value) for key, value in tree.items()}
        if isinstance(tree, list | tuple):
            return [self.tree(value) for value in tree]
        return tree

    def record(self) -> tuple[PutBack, ...]:
        return tuple(
            PutBack(site.where, occurrence.reference.sha256, self._sizes[occurrence.reference])
            for site, occurrence in self._found
        )

    def _text(self, text: str) -> str:
        if self._as_path:
            return text
        parts: list[str] = []
        done = 0
        for occurrence in find(text):
            parts += (text[done : occurrence.start], self._texts[occurrence.reference])
            done = occurrence.end
        return "".join((*parts, text[done:]))

    def _error(self, site: _Site, reason: str) -> ResolveError:
        return ResolveError(f'pipeline task "{self._label}": {site.label}: {reason}')

    def _stray(self, whole_array: str) -> str:
        return (
            f"{whole_array} stands for a whole array, which fits only where an element of an array param is expected. "
            "Pass the result as $(tasks.<task>.results.<result>[*]) in an array param, or have the task publish fewer "
            "elements."
        )

    def _missing(self, site: _Site, reference: Reference) -> ResolveError:
        return self._error(
            site,
            f"the content of {reference} is unknown or expired: it belongs to another namespace, or its run was "
            "deleted. Run the task that wrote it again.",
        )

    def _too_large(self, total: int, by_label: Mapping[str, int]) -> ResolveError:
        largest = max(by_label, key=lambda label: by_label[label])
        limit = f"param-inline-limit allows {format_size(self._limit)} ({self._limit} bytes) in all params of a TaskRun"
        if self._as_path:
            way_out = f"Whole arrays are put back even as paths; raise the limit with {LIMIT_ANNOTATION}."
        else:
            way_out = _PATH_WAY_OUT
        in_all = "" if len(by_label) == 1 else f" (of {total} bytes in {len(by_label)} places)"
        return ResolveError(
            f'pipeline task "{self._label}": {largest} takes {format_size(by_label[largest])} '
            f"({by_label[largest]} bytes){in_all} of spilled content, but {limit}. {way_out}"
        )


class _Reader(_Resolver):
    """The same for somebody who reads a value: there is no param, and no annotation that could help."""

    _needs_text = "value in JSON must be: read that reference by itself"

    def _error(self, site: _Site, reason: str) -> ResolveError:
        return ResolveError(f"{self._label}: {reason}")

    def _stray(self, whole_array: str) -> str:
        return (
            f"{whole_array} stands for a whole array, where an element or a text was meant: which one, Tekton could not "
            f"tell. Read the array itself, {whole_array}"
        )

    def _too_large(self, total: int, by_label: Mapping[str, int]) -> ResolveError:
        return ResolveError(
            f"{self._label}: its parts have {format_size(total)} ({total} bytes) of spilled content, of which at most "
            f"{format_size(self._limit)} can be put together here: read its references one by one"
        )
