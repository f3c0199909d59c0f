"""What holder, server and clients say to each other: one JSON object a packet, typed, read by a strict schema.

`{"v": 1, "type": "<name>", ...fields}`. Descriptors travel beside a packet (SCM_RIGHTS): at most one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from resultsfs.errors import InvalidMessage

VERSION = 1
"""Of the protocol; both sides must speak the same."""
MOST = 160 << 10
"""Bytes in the largest packet."""
_VOLUME_ID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,127}")


M = TypeVar("M", bound="Message")
_TYPES: dict[str, type[Message]] = {}


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages. `name` is the type in a packet: the class's own, in small letters and with dashes."""

    name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.name = re.sub("(?<!^)[A-Z]", r"-\g<0>", cls.__name__).lower()
        _TYPES[cls.name] = cls


@dataclass(frozen=True, slots=True)
class Volume(Message):
    """One volume: where it is mounted, its spool (absolute paths), its record (JSON) and settings (YAML, empty: the
    server's own), who its collectors are (executables, or the children of one process; 0: none), who may see it.
    """

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

    volume: Volume
    timeout: float = 60.0
    over: bool = False


@dataclass(frozen=True, slots=True)
class Mounted(Message):
    """The mount answers."""

    volume_id: str


@dataclass(frozen=True, slots=True)
class Unmount(Message):
    """Take off what is mounted, by volume or by mount point; `unmounted` also when nothing was. `foreign`: also what
    others have mounted over it.
    """

    volume_id: str = ""
    mountpoint: str = ""
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Unmounted(Message):
    """Nothing of ours is mounted there any more; `count` mounts were taken off."""

    count: int


@dataclass(frozen=True, slots=True)
class List(Message):
    """Ask for one `listed` a volume, then `end`."""


@dataclass(frozen=True, slots=True)
class Listed(Message):
    """One volume. `state`: `mounting`, `served`, `waiting` (for a server), `lost` (mounted, but its descriptor is
    not here: a server may still have it) or `dead` (aborted). `server` is the pid of who serves it, 0: nobody.
    """

    volume_id: str
    mountpoint: str
    spool: str
    state: str
    server: int


@dataclass(frozen=True, slots=True)
class End(Message):
    """The end of several answers: how many there were."""

    count: int


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """What was asked for failed: a sentence, and an errno."""

    error: str
    errno: int


# -- a server's control connection --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hold(Message):
    """Keep this volume's descriptor, which comes along; `initialised`: INIT has been answered.

    From a server that outlived its holder. In a hand-over also `given` (a server has had it) and `server`, the number
    of the connection by which it is served, 0: nobody; then a lost descriptor is missing.
    """

    volume: Volume
    initialised: bool
    given: bool = True
    server: int = 0


@dataclass(frozen=True, slots=True)
class Attach(Message):
    """From here on send me volumes to serve. The first that attached gets them; when it goes, the next."""


@dataclass(frozen=True, slots=True)
class Numbers(Message):
    """I repeat the number of a serving, so servings of one volume id may be told apart. Before Attach.

    A holder that does not know this message answers `failed`, and no number is said on the connection.
    """


@dataclass(frozen=True, slots=True)
class Serve(Message):
    """Serve this volume by the descriptor that comes along. `take_over`: another server has had it before;
    `may_back`: the holder has the right to register backing files. `serving` is the number of this serving, which
    `ready`, `refused`, `ended` and `drop` repeat; 0, here and there: not said.
    """

    volume: Volume
    take_over: bool
    may_back: bool
    serving: int = 0


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """INIT has been answered: the mount answers."""

    volume_id: str
    serving: int = 0


@dataclass(frozen=True, slots=True)
class Ended(Message):
    """The kernel has closed the connection: the mount was taken off, or aborted."""

    volume_id: str
    serving: int = 0


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """A server cannot serve this volume."""

    volume_id: str
    error: str
    errno: int
    serving: int = 0


@dataclass(frozen=True, slots=True)
class Drop(Message):
    """Stop serving this volume: it is gone."""

    volume_id: str
    serving: int = 0


# -- a server's connection for backing files ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BackingOpen(Message):
    """Register the open file that comes along for passthrough."""

    volume_id: str


@dataclass(frozen=True, slots=True)
class Backed(Message):
    """A file's backing id."""

    backing_id: int


@dataclass(frozen=True, slots=True)
class BackingClose(Message):
    """Let go of a backing id. Not answered."""

    volume_id: str
    backing_id: int


# -- a new holder takes over from an old one ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandOver(Message):
    """Give me everything: a `passed` for each socket, a `hold` for each volume, then `end`."""


@dataclass(frozen=True, slots=True)
class Passed(Message):
    """A socket comes along: `listener`, `server` (`number` stands for it in `hold`) or `client`."""

    kind: str
    number: int


@dataclass(frozen=True, slots=True)
class Taken(Message):
    """I have everything: end."""


def encode(message: Message) -> bytes:
    """The packet. Raises InvalidMessage for one that is too large."""
    values = {"v": VERSION, "type": message.name, **_plain(message)}
    packet = json.dumps(values, separators=(",", ":"), default=_plain).encode()
    if len(packet) > MOST:
        raise InvalidMessage(f"{message.name}: {len(packet)} bytes, and a message has at most {MOST}")
    return packet


def _plain(message: Message) -> dict[str, Any]:
    plain = {spec.name: getattr(message, spec.name) for spec in fields(message)}
    if not plain.get("serving", True):
        del plain["serving"]  # a side that does not know the field would refuse the message
    return plain


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
    return _read(kind, values)


def _read(kind: type[M], values: dict[str, Any]) -> M:
    """A message of this type from its fields. Raises InvalidMessage for unknown, missing and bad ones."""
    types = {spec.name: str(spec.type) for spec in fields(kind)}
    for key, value in values.items():
        if key not in types:
            raise InvalidMessage(f"{kind.name}: unknown field {key!r}; known are {', '.join(types)}")
        try:
            values[key] = _CONVERT[types[key]](value)
        except TypeError:
            raise InvalidMessage(f"{kind.name}: {key} is {value!r}: expected {types[key]}") from None
    try:
        return kind(**values)
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


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "str": _exactly(str),
    "int": _exactly(int),
    "bool": _exactly(bool),
    "float": _number,
    "tuple[str, ...]": _texts,
    "Volume": lambda value: _read(Volume, _exactly(dict)(value)),
}
