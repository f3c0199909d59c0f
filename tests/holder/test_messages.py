"""Messages: what is said is what is heard, and what is wrong is named."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs.errors import InvalidMessage
from resultsfs.holder import messages
from resultsfs.holder.channel import Channel, connect
from resultsfs.holder.messages import (
    Attach,
    BackingOpen,
    End,
    Failed,
    Hold,
    List,
    Message,
    Mount,
    Ready,
    Serve,
    Volume,
    decode,
    encode,
)
from tests.support.holder import DEADLINE, Stage

TEXT = st.text(max_size=50)
VOLUMES = st.builds(
    Volume,
    st.from_regex(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,127}", fullmatch=True),
    TEXT.map("/{}".format),
    TEXT.map("/{}".format),
    TEXT,
    TEXT,
    st.lists(TEXT, max_size=3).map(tuple),
    st.integers(0, 1 << 22),
    st.booleans(),
)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Mount, VOLUMES, st.floats(0, 1e6)),
    st.builds(Hold, VOLUMES, st.booleans(), st.booleans(), st.integers(0, 1000)),
    st.builds(Serve, VOLUMES, st.booleans(), st.booleans(), st.integers(0, 1 << 62)),
    st.builds(Failed, TEXT, st.integers(0, 200)),
    st.builds(Ready, TEXT, st.integers(0, 1 << 62)),
    st.just(List()),
)


@given(MESSAGES)
def test_what_is_said_is_heard(message: Message) -> None:
    """Each message comes out as it went in, whatever its texts are."""
    assert decode(encode(message)) == message


def test_a_number_that_is_none_is_not_said() -> None:
    """Who knows no numbers of servings refuses a message with one; without one it is what it always was."""
    assert json.loads(encode(Ready("v"))) == {"v": 1, "type": "ready", "volume_id": "v"}
    assert decode(encode(Ready("v"))) == Ready("v", 0)
    assert json.loads(encode(Ready("v", 7)))["serving"] == 7


@given(st.one_of(st.binary(max_size=200), st.recursive(st.none() | st.integers() | TEXT, st.lists).map(json.dumps)))
def test_whatever_is_heard_is_a_message_or_an_error(packet: bytes | str) -> None:
    """Reading never fails in another way than by an error that says so."""
    try:
        found = decode(packet if isinstance(packet, bytes) else packet.encode())
    except InvalidMessage as error:
        assert error.errno == errno.EBADMSG and str(error)
    else:
        assert isinstance(found, Message)


def _packet(kind: str, **fields: Any) -> bytes:
    return json.dumps({"v": 1, "type": kind, **fields}).encode()


_VOLUME = {"volume_id": "v", "mountpoint": "/m", "spool": "/s", "record": "{}"}
WRONG = [
    (b"\xff{", ["not JSON"]),
    (b"[]", ["list", "object"]),
    (b'{"type": "list"}', ["version None", "speaks 1"]),
    (b'{"v": 2, "type": "list"}', ["version 2"]),
    (_packet("dance"), ["'dance'", "known are", "mount"]),
    (_packet("ready"), ["ready", "volume_id"]),
    (_packet("ready", volume_id=7), ["ready", "volume_id is 7", "str"]),
    (_packet("list", more=1), ["list", "'more'"]),
    (_packet("mount", volume=_VOLUME, timeout="soon"), ["mount", "timeout is 'soon'", "float"]),
    (_packet("mount", volume=_VOLUME | {"volume_id": "../v"}), ["volume_id is '../v'"]),
    (_packet("mount", volume=_VOLUME | {"mountpoint": "m"}), ["mountpoint of volume v is 'm'", "full path"]),
    (_packet("mount", volume=_VOLUME | {"collectors": "x"}), ["collectors is 'x'"]),
    (_packet("mount", volume=_VOLUME | {"allow_other": 1}), ["allow_other is 1"]),
    (_packet("mounted", volume_id="v"), ["mounted", "nothing that a holder can be told"]),
    (_packet("ready", volume_id="v"), ["v is not this server's"]),
    (_packet("hold", volume=_VOLUME, initialised=True), ["hold", "no descriptor"]),
    (_packet("backing-open", volume_id="v"), ["backing-open", "no descriptor"]),
    (_packet("unmount"), ["unmount", "neither volume_id nor mountpoint"]),
    (b" " * (messages.MOST + 1), ["more than"]),
]


@pytest.mark.parametrize(("packet", "words"), WRONG)
def test_a_wrong_message_is_answered_by_what_is_wrong(stage: Stage, packet: bytes, words: list[str]) -> None:
    """The holder names what it did not understand, on the same connection, and goes on."""
    stage.holder()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.settimeout(DEADLINE)
        raw.connect(stage.socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * messages.MOST)
        raw.send(packet)
        answer = decode(raw.recv(messages.MOST))
        assert isinstance(answer, Failed)
        for word in words:
            assert word in answer.error
        raw.send(encode(List()))
        assert decode(raw.recv(messages.MOST)) == End(0)


def test_what_is_too_large_is_not_sent() -> None:
    """A message beyond the limit is refused where it is made, with its size."""
    with pytest.raises(InvalidMessage, match=f"mount: .* at most {messages.MOST}"):
        encode(Mount(Volume("v", "/m", "/s", "x" * messages.MOST)))


def test_a_descriptor_must_be_the_mounts(both: Stage) -> None:
    """A descriptor to hold is checked against the mount table; one of nothing is not taken."""
    volume = both.volume()
    with open(os.devnull, "rb") as device:
        channel = connect(both.socket, DEADLINE)
        channel.send(Hold(volume, True), device.fileno())
        answer, _ = channel.receive()
        assert isinstance(answer, Failed) and volume.mountpoint in answer.error
        both.mount()
        channel.send(Hold(volume, True), device.fileno())
        answer, _ = channel.receive()
        assert isinstance(answer, Failed), answer
        channel.send(BackingOpen("w"), device.fileno())
        answer, _ = channel.receive()
        assert isinstance(answer, Failed) and "volume w is not held" in answer.error
        channel.close()
    assert both.states() == {"v": "served"}


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user")
def test_other_users_are_turned_away(stage: Stage) -> None:
    """Neither the socket's mode nor, where that were open, the holder itself lets another user in."""
    holder = stage.holder()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(DEADLINE)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                stranger.connect(stage.socket)
        finally:
            os.seteuid(0)
        os.chmod(stage.socket, 0o666)
        os.seteuid(65534)
        try:
            stranger.connect(stage.socket)
        finally:
            os.seteuid(0)
        assert stranger.recv(1) == b""
    holder.says("of user 65534 was turned away")


def test_descriptors_do_not_leak() -> None:
    """What comes with a message that is not understood is closed."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, open(os.devnull, "rb") as device:
        channel = Channel(right)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            socket.send_fds(left, [b"nonsense"], [device.fileno()] * 2)
            with pytest.raises(InvalidMessage):
                channel.receive()
        assert len(os.listdir("/proc/self/fd")) == before
        left.send(encode(Attach()))
        assert channel.receive() == (Attach(), None)
        channel.close()
