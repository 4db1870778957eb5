"""Pairs of sockets through which a kernel speaks with viewers: for requests and planes, and for announcements."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from socket import gethostname
from typing import Any

import msgspec
import zmq

from openhcs_jupyter.streaming.keys import Endpoint, Invitation, KeyPair, is_everywhere, keys_of, short_folder
from openhcs_jupyter.streaming.sockets import Monitor, Widener, bind_private, join_curve, prepare, received, serve_curve
from openhcs_jupyter.streaming.wire import MOST_REQUEST_BYTES, Knock, encode

_DOMAIN = "viewers"
_MORE = int(zmq.SNDMORE)
_BEGIN = int(zmq.NOBLOCK | zmq.SNDMORE)


class Door:
    """One way for viewers to reach a kernel. Used by one thread.

    Parameters
    ----------
    control, news
        The two sockets.
    endpoint
        Where they are bound; None where they call a listening viewer.
    """

    def __init__(self, control: zmq.Socket[bytes], news: zmq.Socket[bytes], endpoint: Endpoint | None) -> None:
        self._control = control
        self._news = news
        self.endpoint = endpoint

    @property
    def calls(self) -> Endpoint | None:
        """The addresses of the listening viewer that it calls."""
        return None

    @property
    def polled(self) -> list[zmq.Socket[bytes]]:
        """The sockets that tell when there is something to look at."""
        return [self._control]

    @property
    def ports(self) -> tuple[int, int]:
        """The two ports of a door on TCP."""
        assert self.endpoint is not None
        control, news = (int(address.rpartition(":")[2]) for address in (self.endpoint.control, self.endpoint.news))
        return control, news

    def look(self, ready: Collection[Any]) -> tuple[bytes, Sequence[zmq.Frame]] | None:
        """Return the next message, with the name of its viewer's connection, if there is one."""
        if self._control not in ready or not (frames := received(self._control)):
            return None
        return frames[0].bytes, frames[1:]

    def send(self, peer: bytes, frames: Sequence[Any]) -> bool:
        """Send a message to one viewer; False if its queue is full. Who has gone gets nothing."""
        try:
            self._control.send(peer, _BEGIN)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return True
        self._send_rest(frames)
        return True

    def publish(self, frame: bytes) -> None:
        """Send an announcement to all viewers; who reads too slowly misses it, and asks for it later."""
        with suppress(zmq.Again):
            self._news.send(frame, zmq.NOBLOCK)

    def close(self) -> None:
        """Close the sockets."""
        self._control.close()
        self._news.close()

    def _send_rest(self, frames: Sequence[Any]) -> None:
        for frame in frames[:-1]:
            self._control.send(frame, _MORE)
        self._control.send(frames[-1], copy=False)


class PrivateDoor(Door):
    """A door of Unix sockets; parameters as in `Door`."""

    def __init__(self, control: zmq.Socket[bytes], news: zmq.Socket[bytes], endpoint: Endpoint) -> None:
        super().__init__(control, news, endpoint)
        self._widener = Widener(control)

    @property
    def polled(self) -> list[zmq.Socket[bytes]]:
        """The socket of requests, and what tells of its connections."""
        return [self._control, self._widener.events]

    def look(self, ready: Collection[Any]) -> tuple[bytes, Sequence[zmq.Frame]] | None:
        """Widen new connections; return the next message, if there is one."""
        if self._widener.events in ready:
            self._widener.read()
        return super().look(ready)

    def close(self) -> None:
        """Close the sockets."""
        self._widener.close()
        super().close()


class CallingDoor(Door):
    """Calls a viewer that listens, and knocks whenever the connection has been made.

    Parameters
    ----------
    control, news
        The two sockets.
    invitation
        Of the viewer. With its token the door only enrols the kernel's key.
    knock
        What is said.
    """

    def __init__(
        self, control: zmq.Socket[bytes], news: zmq.Socket[bytes], invitation: Invitation, knock: Knock
    ) -> None:
        super().__init__(control, news, None)
        self._invitation = invitation
        self._knock = knock
        self.is_let_in = False
        """The viewer has answered; before, it would turn announcements away."""
        self._monitor = Monitor(control)
        self.is_done = False
        """The key is enrolled, or the token is used up; the kernel calls again without it."""
        control.connect(invitation.endpoint.control)

    @property
    def calls(self) -> Endpoint | None:
        """The viewer's addresses."""
        return self._invitation.endpoint

    @property
    def known(self) -> Invitation:
        """The invitation without its token."""
        return msgspec.structs.replace(self._invitation, token="")

    @property
    def polled(self) -> list[zmq.Socket[bytes]]:
        """The socket of requests, and what tells of its connection."""
        return [self._control, self._monitor.events]

    def look(self, ready: Collection[Any]) -> tuple[bytes, Sequence[zmq.Frame]] | None:
        """Knock where the connection is new; return the next message, if there is one."""
        happened = self._monitor.read() if self._monitor.events in ready else []
        if "connected" in happened:
            with suppress(zmq.Again):
                self._control.send(encode(self._knock), zmq.NOBLOCK)
        if "refused" in happened and self._invitation.token:
            self.is_done = True
        if self._control not in ready or not (frames := received(self._control)):
            return None
        if self._invitation.token:
            self.is_done = True
        elif not self.is_let_in:
            self.is_let_in = True
            self._news.connect(self._invitation.endpoint.news)
        return b"", frames

    def send(self, peer: bytes, frames: Sequence[Any]) -> bool:  # noqa: ARG002 - the interface has it
        """Send a message to the viewer; False if its queue is full."""
        if not self._control.poll(0, zmq.POLLOUT):
            return False
        self._send_rest(frames)
        return True

    def close(self) -> None:
        """Close the sockets."""
        self._monitor.close()
        super().close()


def private_door(context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> Door:
    """Open a door of Unix sockets that only their owner can reach, for this machine and for SSH to forward."""
    place = short_folder(folder)
    control, news = _bound(context)
    endpoint = Endpoint(control=bind_private(control, place / "control"), news=bind_private(news, place / "news"))
    return PrivateDoor(control, news, endpoint)


def network_door(context: zmq.Context[zmq.Socket[bytes]], host: str, port: int, news_port: int, keys: KeyPair) -> Door:
    """Open a door on TCP, for who has a viewer's key.

    Raises
    ------
    ZMQError
        If a port is taken.
    """
    control, news = _bound(context)
    for socket in (control, news):
        serve_curve(socket, keys, _DOMAIN)
    try:
        where = [_bind(control, host, port), _bind(news, host, news_port)]
    except zmq.ZMQError:
        control.close()
        news.close()
        raise
    return Door(control, news, Endpoint(control=where[0], news=where[1]))


def calling_door(
    context: zmq.Context[zmq.Socket[bytes]], invitation: Invitation, keys: KeyPair, name: str, known_as: bytes
) -> CallingDoor:
    """Call a listening viewer: with its token to enrol the kernel's key, or with that key.

    Parameters
    ----------
    context
        Of the sockets.
    invitation
        Of the viewer.
    keys
        The kernel's lasting ones.
    name
        Of the kernel, for people.
    known_as
        Known to this kernel only; by it the viewer goes on with the same session after a cut and a restart.
    """
    control = context.socket(zmq.DEALER)
    control.setsockopt(zmq.ROUTING_ID, known_as)
    news = context.socket(zmq.PUB)
    mine = keys_of(invitation.token) if invitation.token else keys
    for socket in (control, news):
        prepare(socket, most_bytes=MOST_REQUEST_BYTES)
        join_curve(socket, mine, invitation.key)
    knock = Knock(name=name, key=keys.public if invitation.token else "")
    return CallingDoor(control, news, invitation, knock)


def _bound(context: zmq.Context[zmq.Socket[bytes]]) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    control = context.socket(zmq.ROUTER)
    control.setsockopt(zmq.ROUTER_MANDATORY, 1)
    news = context.socket(zmq.PUB)
    for socket in (control, news):
        prepare(socket, most_bytes=MOST_REQUEST_BYTES)
    return control, news


def _bind(socket: zmq.Socket[bytes], host: str, port: int) -> str:
    socket.bind(f"tcp://{host}:{port or '*'}")
    taken = str(socket.getsockopt_string(zmq.LAST_ENDPOINT)).rpartition(":")[2]
    return f"tcp://{gethostname() if is_everywhere(host) else host}:{taken}"
