"""A volume that is mounted again right after its unmounting: what is said late of the earlier mount does no harm."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from resultsfs import mountpoint
from resultsfs.holder.channel import Channel, connect, listen
from resultsfs.holder.messages import (
    Attach,
    Drop,
    End,
    Ended,
    Failed,
    List,
    Listed,
    Message,
    Mount,
    Mounted,
    Numbers,
    Ready,
    Refused,
    Serve,
    Unmount,
    Unmounted,
)
from tests.support.holder import DEADLINE, Stage
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]


class Said:
    """This test as a server or client of a holder: what it hears, and the descriptors that came along."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.descriptors: list[int] = []

    def say(self, *messages: Message) -> None:
        """Send these."""
        for message in messages:
            self.channel.send(message)

    def hears(self) -> Message:
        """The next message."""
        message, descriptor = self.channel.receive()
        if descriptor is not None:
            self.descriptors.append(descriptor)
        return message

    def served(self) -> Serve:
        """The next message, which is to serve."""
        message = self.hears()
        assert isinstance(message, Serve), message
        return message

    def states(self) -> dict[str, str]:
        """The holder's volumes, after all that was said here before."""
        self.say(List())
        found = {}
        while not isinstance(message := self.hears(), End):
            assert isinstance(message, Listed), message
            found[message.volume_id] = message.state
        return found


@contextmanager
def speaking(channel: Channel) -> Iterator[Said]:
    """Speak on a connection; it and its descriptors are closed afterwards."""
    said = Said(channel)
    try:
        yield said
    finally:
        channel.close()
        for descriptor in said.descriptors:
            os.close(descriptor)


@pytest.mark.parametrize("numbers", [True, False], ids=["numbers", "an older server"])
def test_what_is_said_of_an_earlier_mount_is_ignored(stage: Stage, numbers: bool) -> None:
    """A server's late word that a mount has ended does not end the next one of that id; with numbers, no late word
    counts. Without them the kernel is asked."""
    stage.holder()
    volume = stage.volume()
    with speaking(connect(stage.socket, DEADLINE)) as server, speaking(connect(stage.socket, DEADLINE)) as client:
        server.say(*[Numbers()][: int(numbers)], Attach())
        client.say(Mount(volume))
        first = server.served().serving
        server.say(Ready("v", first))
        assert client.hears() == Mounted("v")
        client.say(Unmount("v"))
        assert client.hears() == Unmounted(1)
        assert server.hears() == Drop("v", first)
        client.say(Mount(volume))
        second = server.served().serving
        assert (first != 0, second != 0, first != second) == (numbers,) * 3
        late: list[Message] = [Ended("v", first)]
        if numbers:
            late += [Ready("v", first), Refused("v", "late", errno.EIO, first)]
        server.say(*late)
        assert server.states() == {"v": "mounting"}
        assert stage.mounted() == ["v"]
        server.say(Ready("v", second))
        assert client.hears() == Mounted("v")
        assert server.states() == {"v": "served"}


@pytest.mark.parametrize("numbers", [True, False], ids=["numbers", "an older server"])
def test_the_end_of_this_mount_counts(stage: Stage, numbers: bool) -> None:
    """A server's word that the very mount has ended is believed, before it answered too: who waits for it is told."""
    stage.holder()
    with speaking(connect(stage.socket, DEADLINE)) as server, speaking(connect(stage.socket, DEADLINE)) as client:
        server.say(*[Numbers()][: int(numbers)], Attach())
        client.say(Mount(stage.volume()))
        serving = server.served().serving
        mountpoint.detach(str(stage.directory / "v"))
        eventually(lambda: stage.mounted() == [])
        server.say(Ended("v", serving))
        failed = client.hears()
        assert isinstance(failed, Failed) and "was unmounted" in failed.error
        assert stage.listed() == {}


def test_a_dead_mount_that_never_answered_is_taken_off(stage: Stage) -> None:
    """An unmount of what was aborted before it answered succeeds, and is not told that it is being mounted."""
    stage.holder()
    with speaking(connect(stage.socket, DEADLINE)) as server, speaking(connect(stage.socket, DEADLINE)) as client:
        server.say(Numbers(), Attach())
        client.say(Mount(stage.volume()))
        server.say(Ended("v", server.served().serving))  # the mount is in the table still
        failed = client.hears()
        assert isinstance(failed, Failed) and failed.errno == errno.ECONNABORTED and "was aborted" in failed.error
        assert stage.states() == {"v": "dead"}
        assert stage.unmount() == 1
        assert stage.mounted() == [] and stage.listed() == {}


def test_mounts_given_up_while_the_server_hung(both: Stage) -> None:
    """A server that hung, and finds mounts that were given up and asked for again, serves the last of each."""
    server = both.processes[1]
    names = [f"v{number}" for number in range(4)]
    server.signal(signal.SIGSTOP)
    for _ in range(2):
        for name in names:
            assert both.fails(Mount(both.volume(name), timeout=0.1)).errno == errno.ETIMEDOUT
            eventually(partial(_is_off, both, name))
    clients = [connect(both.socket, DEADLINE) for _ in names]
    for name, client in zip(names, clients, strict=True):
        client.send(Mount(both.volume(name), timeout=DEADLINE))
    eventually(lambda: [found.server for found in both.listed().values()] == [server.pid] * len(names))
    server.signal(signal.SIGCONT)
    for name, client in zip(names, clients, strict=True):
        assert client.receive()[0] == Mounted(name)
        client.close()
    assert both.states() == dict.fromkeys(names, "served")
    for name in names:
        (both.directory / name / "report").write_text(name)
        assert (both.directory / name / "report").read_text() == name
    for name in names:
        assert both.unmount(name) == 1
    eventually(lambda: not [link for link in _links(server.pid) if "/dev/fuse" in link])


def _is_off(stage: Stage, name: str) -> bool:
    """Have it taken off, unless it is just being mounted."""
    with speaking(connect(stage.socket, DEADLINE)) as client:
        client.say(Unmount(name))
        return isinstance(client.hears(), Unmounted)


def _links(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


def test_an_older_holder_is_told_no_numbers(stage: Stage) -> None:
    """A server serves for a holder that knows no numbers, and says nothing that such a one would not understand."""
    volume = stage.volume()
    listener = listen(stage.socket)
    listener.settimeout(DEADLINE)
    server = stage.starting()
    with listener, speaking(_accepted(listener)) as holder:
        assert holder.hears() == Numbers()
        holder.say(Failed("a message of type 'numbers': known are attach", errno.EBADMSG))
        assert holder.hears() == Attach()
        server.says("the holder is an older one")
        for _ in range(2):
            descriptor = mountpoint.attach(volume.mountpoint, allow_other=True)
            holder.channel.send(Serve(volume, take_over=False, may_back=False), descriptor)
            assert holder.hears() == Ready("v")
            (Path(volume.mountpoint) / "report").write_text("served")
            mountpoint.detach(volume.mountpoint)
            os.close(descriptor)
            assert holder.hears() == Ended("v")
        assert "says:" not in server.log()


def _accepted(listener: socket.socket) -> Channel:
    channel = Channel(listener.accept()[0])
    channel.settle(DEADLINE)
    return channel
