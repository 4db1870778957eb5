"""The server's two sockets: ROUTER for requests, XPUB for announcements; CURVE on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import zmq

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.server.protocol import MOST_REQUEST_BYTES
from openhcs_jupyter.streaming.keys import Invitation, KeyPair
from openhcs_jupyter.streaming.sockets import Doorman, prepare, serve_curve

_DOMAIN = "clients"
_AT_A_TIME = 200
_MOST_WAITING = 64
"""Replies that wait for one client; more are dropped, and it asks again."""
_MOST_SUBSCRIPTION_BYTES = 1024
"""A subscription has 33; the handshake before it some hundred."""


class FrontDoor:
    """Where clients come.

    Parameters
    ----------
    bind
        ``tcp://ADDRESS:PORT``; announcements use the next port. Port 0 takes free ones.
    keys
        The server's. Who does not know the public one cannot shake hands.

    Raises
    ------
    UsageError
        If the address cannot be listened at.
    """

    def __init__(self, bind: str, keys: KeyPair) -> None:
        host, port = _place(bind)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # Any key may come in, and is nobody's until it says whose it is.
        self._doorman = Doorman(self._context, lambda domain, _: domain == _DOMAIN)
        self.requests = self._context.socket(zmq.ROUTER)
        self.requests.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.news = self._context.socket(zmq.XPUB)
        self.news.setsockopt(zmq.XPUB_MANUAL, 1)
        try:
            for socket, most in ((self.requests, MOST_REQUEST_BYTES), (self.news, _MOST_SUBSCRIPTION_BYTES)):
                prepare(socket, most_bytes=most)
                serve_curve(socket, keys, _DOMAIN)
            self.requests.sndhwm = _MOST_WAITING
            self.requests.bind(f"tcp://{host}:{port or '*'}")
            self.port = _port(self.requests)
            self.news.bind(f"tcp://{host}:{port + 1 if port else '*'}")
        except zmq.ZMQError as error:
            self.close()
            raise UsageError(f"{bind} cannot be listened at: {error}.", "Choose another one: --bind.") from error
        self.news_port = _port(self.news)
        self.invitation = Invitation(host=host, port=self.port, key=keys.public)

    def read(self) -> Iterator[tuple[bytes, str, list[zmq.Frame]]]:
        """Give some of the requests that are there: of which connection, with which key, their frames."""
        for _ in range(_AT_A_TIME):
            try:
                peer, *frames = self.requests.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            yield peer.bytes, str(frames[0].get("User-Id")) if frames else "", frames

    def reply(self, peer: bytes, data: bytes) -> None:
        """Send a reply; it is dropped where the client has gone or does not read."""
        with suppress(zmq.Again):
            try:
                self.requests.send_multipart([peer, data], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise

    def admit(self, is_ticket: Callable[[bytes], bool]) -> None:
        """Let those subscribe who have a ticket, and nobody else; looks at some who ask, others wait."""
        for _ in range(_AT_A_TIME):
            try:
                message = self.news.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if message[:1] == b"\1" and is_ticket(message[1:]):
                # Means the connection whose message was read last.
                self.news.setsockopt(zmq.SUBSCRIBE, message[1:])
            elif message[:1] == b"\0":
                with suppress(zmq.ZMQError):
                    self.news.setsockopt(zmq.UNSUBSCRIBE, message[1:])

    def announce(self, ticket: bytes, data: bytes) -> None:
        """Send an announcement to those who have subscribed to a ticket; who reads too slowly misses it."""
        with suppress(zmq.Again):
            self.news.send_multipart([ticket, data], zmq.NOBLOCK)

    def close(self) -> None:
        """Close the sockets."""
        self.requests.close(linger=500)
        self.news.close(linger=0)
        self._doorman.close()
        self._context.destroy()


def _place(bind: str) -> tuple[str, int]:
    host, _, port = bind.removeprefix("tcp://").rpartition(":")
    if not bind.startswith("tcp://") or not host or not port.isdecimal() or int(port) > 65534:
        raise UsageError(f"--bind {bind} is no address.", "Write tcp://127.0.0.1:7777.")
    return host, int(port)


def _port(socket: zmq.Socket[Any]) -> int:
    return int(str(socket.getsockopt_string(zmq.LAST_ENDPOINT)).rpartition(":")[2])
