"""The termination message: its JSON is Go's to the byte, and its cost is never too low."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resultsfs import message

# what encoding/json writes in two bytes; \b and \f since Go 1.22, before that in six
_SHORT = {0x22: b'\\"', 0x5C: b"\\\\", 0x0A: b"\\n", 0x0D: b"\\r", 0x09: b"\\t"}


def go_string(content: bytes) -> bytes:
    """An oracle written from encoding/json's appendString, byte by byte, with escapes as before Go 1.22."""
    out = bytearray()
    at = 0
    while at < len(content):
        byte = content[at]
        if byte < 0x80:
            if byte in _SHORT:
                out += _SHORT[byte]
            elif byte < 0x20 or byte in b"<>&":
                out += b"\\u%04x" % byte
            else:
                out.append(byte)
            at += 1
            continue
        size = rune_size(content[at:])
        if size == 1:
            out += b"\\ufffd"
        elif content[at : at + size] in (b"\xe2\x80\xa8", b"\xe2\x80\xa9"):
            out += b"\\u202" + (b"8" if content[at + 2] == 0xA8 else b"9")
        else:
            out += content[at : at + size]
        at += size
    return bytes(out)


def rune_size(content: bytes) -> int:
    """The size that Go's utf8.DecodeRune gives: 1 for a byte that begins no valid encoding."""
    for size in (2, 3, 4):
        try:
            if len(content[:size].decode("utf-8")) == 1 and len(content) >= size:
                return size
        except UnicodeDecodeError:
            continue
    return 1


contents = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(str.encode),
    st.lists(
        st.sampled_from(
            [
                b"<",
                b"&",
                b'"',
                b"\\",
                b"\n",
                b"\0",
                b"\x7f",
                b"\xff",
                b"\xe2\x80\xa8",
                b"\xe2\x80",
                b"\xed\xa0\x80",
                b"\xf0\x9f\x98\x80",
                b"\xf0\x9f",
                "\ufffd".encode(),
                "é".encode(),
                b"\b",
                b"\f",
                b"\xc0\x80",
                b"a",
            ]
        ),
        max_size=40,
    ).map(b"".join),
)
names = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)


@given(contents)
@example(bytes(range(256)))
@example(b"\xf4\x90\x80\x80\xe2\x80\xa9")
def test_the_cost_is_exact(content: bytes) -> None:
    """The cost of a content is the length of what Go writes for it, counting the longer of Go's own spellings."""
    assert message.json_cost(content) == len(go_string(content))


@given(st.lists(st.tuples(names, contents), max_size=6), st.one_of(st.none(), st.integers(0, 9)))
def test_a_message_costs_what_was_computed(results: list[tuple[str, bytes]], exit_code: int | None) -> None:
    """The real message is never longer than the arithmetic says, and short of it only by \\b and \\f."""
    encoded = message.encode(results, exit_code=exit_code)
    computed = message.FIXED_COST + sum(message.entry_cost(name, message.json_cost(value)) for name, value in results)
    if exit_code is not None:
        computed += message.EXIT_CODE_COST
    short_escapes = sum(value.count(b"\b") + value.count(b"\f") for _, value in results)
    assert len(encoded) == computed - 4 * short_escapes


@given(st.lists(st.tuples(names, contents), max_size=6))
def test_a_message_is_read_back(results: list[tuple[str, bytes]]) -> None:
    """What the controller reads are the names and values, with one U+FFFD for each broken byte."""
    decoded = message.decode(message.encode(results))
    assert decoded is not None
    expected = [(name, json.loads(b'"' + go_string(value) + b'"')) for name, value in results]
    assert [(entry.name, entry.value) for entry in decoded] == expected


@given(st.lists(st.tuples(names, contents), min_size=1, max_size=3), st.data())
def test_a_cut_message_is_no_message(results: list[tuple[str, bytes]], data: st.DataObject) -> None:
    """A message that lost its end, as by the kubelet's cut, is never taken for one with fewer results."""
    encoded = message.encode(results)
    assert message.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))]) is None


def test_the_largest_value_that_tekton_takes() -> None:
    """With a one-letter name 3999 bytes fit, as was found with the real entrypoint."""
    assert len(message.encode([("a", b"x" * 3999)])) <= message.LIMIT < len(message.encode([("a", b"x" * 4001)]))


def test_the_kubelets_share() -> None:
    """Containers and init containers share 12288 bytes; from four on, less than Tekton's own limit is left."""
    assert [message.kubelet_limit(count) for count in (1, 3, 4, 12)] == [12288, 4096, 3072, 1024]


@given(names, contents)
def test_the_sidecars_line_costs_what_was_computed(name: str, content: bytes) -> None:
    """The line is at most as long as computed; real ones differ only by \\b and \\f."""
    line = b'{"name":"%s","value":"%s","type":"task"}' % (name.encode(), go_string(content))
    assert message.sidecar_line_cost(name, message.json_cost(content)) == len(line)


GO_PROGRAM = """
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		content, err := base64.StdEncoding.DecodeString(lines.Text())
		if err != nil {
			panic(err)
		}
		written, err := json.Marshal(string(content))
		if err != nil {
			panic(err)
		}
		fmt.Println(base64.StdEncoding.EncodeToString(written))
	}
}
"""


@pytest.mark.slow
@pytest.mark.go
@pytest.mark.timeout(600)
def test_go_itself_agrees(tmp_path: Path) -> None:
    """For thousands of contents Go's encoding/json writes what the oracle does, but for \\b and \\f."""
    go = shutil.which("go")
    assert go is not None, "needs Go: install it, or leave out the tests marked go"
    program = tmp_path / "main.go"
    program.write_text(GO_PROGRAM)
    every_pair = [bytes([first, second]) for first in range(256) for second in (*range(0x20), *range(0x7F, 256))]
    runes = [chr(point).encode() for point in (*range(0x2000, 0x2100), 0xFFFD, 0xFFFE, 0x10FFFF, 0xD7FF, 0xE000)]
    broken = [
        bytes([lead, *rest]) for lead in range(0xE0, 0xF8) for rest in ((0x80, 0x80), (0x9F, 0x98), (0xA0, 0x80, 0x80))
    ]
    given_contents = [b"", *every_pair, *runes, *broken]
    done = subprocess.run(
        [go, "run", str(program)],
        input=b"".join(base64.b64encode(content) + b"\n" for content in given_contents),
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    written = [base64.b64decode(line) for line in done.stdout.splitlines()]
    assert len(written) == len(given_contents)
    for content, line in zip(given_contents, written, strict=True):
        if not set(content) & {0x08, 0x0C}:
            assert line == b'"' + go_string(content) + b'"'
        assert len(line) - 2 <= message.json_cost(content)
