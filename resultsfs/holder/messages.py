"""What holder, server and clients say to each other: one JSON object a packet, typed, read by a strict schema.

`{"v": 1, "type": "<name>", ...fields}`. Descriptors travel beside a packet (SCM_RIGHTS): at most one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from resultsfs.errors import InvalidMessage

VERSION = 1
"""Of the protocol; both sides must speak the same."""
MOST = 160 << 10
"""Bytes in the largest packet."""
_VOLUME_ID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,127}")


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages."""

    name: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class Volume(Message):
    """One volume: where it is mounted, its spool (absolute paths), its record (JSON) and settings (YAML, empty: the
    server's own), who its collectors are (executables, or the children of one process; 0: none), who may see it.
    """

    name: ClassVar[str] = "volume"
    volume_id: str
    mountpoint: str
    spool: str
    record: str
    settings: str = ""
    collectors: tuple[str, ...] = ()
    collector_parent: int = 0
    allow_other: bool = True

    def __post_init__(self) -> None:
        if not _VOLUME_ID.fullmatch(self.volume_id):
            raise InvalidMessage(f"volume_id is {self.volume_id!r}: expected letters, digits, - _ .")
        for key in ("mountpoint", "spool"):
            if not getattr(self, key).startswith("/"):
                raise InvalidMessage(
                    f"{key} of volume {self.volume_id} is {getattr(self, key)!r}: expected a full path"
                )


# -- a client asks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount(Message):
    """Mount a volume; `mounted` when it answers. Repeating it is fine. `timeout` in seconds. `over`: on top of its own
    mount, whose descriptor is lost for good.
    """

    name: ClassVar[str] = "mount"
    volume: Volume
    timeout: float = 60.0
    over: bool = False


@dataclass(frozen=True, slots=True)
class Mounted(Message):
    """The mount answers."""

    name: ClassVar[str] = "mounted"
    volume_id: str


@dataclass(frozen=True, slots=True)
class Unmount(Message):
    """Take off what is mounted, by volume or by mount point; `unmounted` also when nothing was. `foreign`: also what
    others have mounted over it.
    """

    name: ClassVar[str] = "unmount"
    volume_id: str = ""
    mountpoint: str = ""
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Unmounted(Message):
    """Nothing of ours is mounted there any more; `count` mounts were taken off."""

    name: ClassVar[str] = "unmounted"
    count: int


@dataclass(frozen=True, slots=True)
class List(Message):
    """Ask for one `listed` a volume, then `end`."""

    name: ClassVar[str] = "list"


@dataclass(frozen=True, slots=True)
class Listed(Message):
    """One volume. `state`: `mounting`, `served`, `waiting` (for a server), `lost` (mounted, but its descriptor is
    not here: a server may still have it) or `dead` (aborted). `server` is the pid of who serves it, 0: nobody.
    """

    name: ClassVar[str] = "listed"
    volume_id: str
    mountpoint: str
    spool: str
    state: str
    server: int


@dataclass(frozen=True, slots=True)
class End(Message):
    """The end of several answers: how many there were."""

    name: ClassVar[str] = "end"
    count: int


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """What was asked for failed: a sentence, and an errno."""

    name: ClassVar[str] = "failed"
    error: str
    errno: int


# -- a server's control connection --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hold(Message):
    """Keep this volume's descriptor, which comes along; `initialised`: INIT has been answered.

    From a server that outlived its holder. In a hand-over also `given` (a server has had it) and `server`, the number
    of the connection by which it is served, 0: nobody; then a lost descriptor is missing.
    """

    name: ClassVar[str] = "hold"
    volume: Volume
    initialised: bool
    given: bool = True
    server: int = 0


@dataclass(frozen=True, slots=True)
class Attach(Message):
    """From here on send me volumes to serve. The first that attached gets them; when it goes, the next."""

    name: ClassVar[str] = "attach"


@dataclass(frozen=True, slots=True)
class Serve(Message):
    """Serve this volume by the descriptor that comes along. `take_over`: another server has had it before;
    `may_back`: the holder has the right to register backing files.
    """

    name: ClassVar[str] = "serve"
    volume: Volume
    take_over: bool
    may_back: bool


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """INIT has been answered: the mount answers."""

    name: ClassVar[str] = "ready"
    volume_id: str


@dataclass(frozen=True, slots=True)
class Ended(Message):
    """The kernel has closed the connection: the mount was taken off, or aborted."""

    name: ClassVar[str] = "ended"
    volume_id: str


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """A server cannot serve this volume."""

    name: ClassVar[str] = "refused"
    volume_id: str
    error: str
    errno: int


@dataclass(frozen=True, slots=True)
class Drop(Message):
    """Stop serving this volume: it is gone."""

    name: ClassVar[str] = "drop"
    volume_id: str


# -- a server's connection for backing files ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BackingOpen(Message):
    """Register the open file that comes along for passthrough."""

    name: ClassVar[str] = "backing-open"
    volume_id: str


@dataclass(frozen=True, slots=True)
class Backed(Message):
    """A file's backing id."""

    name: ClassVar[str] = "backed"
    backing_id: int


@dataclass(frozen=True, slots=True)
class BackingClose(Message):
    """Let go of a backing id. Not answered."""

    name: ClassVar[str] = "backing-close"
    volume_id: str
    backing_id: int


# -- a new holder takes over from an old one ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandOver(Message):
    """Give me everything: a `passed` for each socket, a `hold` for each volume, then `end`."""

    name: ClassVar[str] = "hand-over"


@dataclass(frozen=True, slots=True)
class Passed(Message):
    """A socket comes along: `listener`, `server` (`number` stands for it in `hold`) or `client`."""

    name: ClassVar[str] = "passed"
    kind: str
    number: int


@dataclass(frozen=True, slots=True)
class Taken(Message):
    """I have everything: end."""

    name: ClassVar[str] = "taken"


_TYPES: dict[str, type[Message]] = {
    kind.name: kind
    for kind in (
        *(Mount, Mounted, Unmount, Unmounted, List, Listed, End, Failed),
        *(Hold, Attach, Serve, Ready, Ended, Refused, Drop),
        *(BackingOpen, Backed, BackingClose),
        *(HandOver, Passed, Taken),
    )
}


def encode(message: Message) -> bytes:
    """The packet. Raises InvalidMessage for one that is too large."""
    packet = json.dumps({"v": VERSION, "type": message.name, **_plain(message)}, separators=(",", ":")).encode()
    if len(packet) > MOST:
        raise InvalidMessage(f"{message.name}: {len(packet)} bytes, and a message has at most {MOST}")
    return packet


def _plain(message: Message) -> dict[str, Any]:
    values = {spec.name: getattr(message, spec.name) for spec in fields(message)}
    return {key: _plain(value) if isinstance(value, Message) else value for key, value in values.items()}


def decode(packet: bytes) -> Message:
    """The message in a packet. Raises InvalidMessage that names what is wrong."""
    try:
        values = json.loads(packet)
    except ValueError as error:
        raise InvalidMessage(f"a message is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidMessage(f"a message is a {type(values).__name__}: expected an object")
    version, name = values.pop("v", None), values.pop("type", None)
    if version != VERSION:
        raise InvalidMessage(f"a message of version {version!r}: this side speaks {VERSION}")
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InvalidMessage(f"a message of type {name!r}: known are {', '.join(sorted(_TYPES))}")
    return read(kind, values)


def read(kind: type[Message], values: dict[str, Any]) -> Message:
    """A message of this type from its fields. Raises InvalidMessage for unknown, missing and bad ones."""
    known = {spec.name: spec for spec in fields(kind)}
    for key in values:
        if key not in known:
            raise InvalidMessage(f"{kind.name}: unknown field {key!r}; known are {', '.join(known)}")
    converted: dict[str, Any] = {}
    for key, value in values.items():
        try:
            converted[key] = _CONVERT[str(known[key].type)](value)
        except TypeError:
            raise InvalidMessage(f"{kind.name}: {key} is {value!r}: expected {known[key].type}") from None
    try:
        return kind(**converted)
    except TypeError as error:
        raise InvalidMessage(f"{kind.name}: {str(error).partition('__init__() ')[2]}") from None


def _exactly(wanted: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not wanted:
            raise TypeError(value)
        return value

    return check


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(value)
    return float(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(value)
    return tuple(map(_exactly(str), value))


def _volume(value: Any) -> Volume:
    volume = read(Volume, _exactly(dict)(value))
    assert isinstance(volume, Volume)
    return volume


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "str": _exactly(str),
    "int": _exactly(int),
    "bool": _exactly(bool),
    "float": _number,
    "tuple[str, ...]": _texts,
    "Volume": _volume,
}
