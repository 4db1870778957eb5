"""Passes the cells of Jupyter's clients here on to a remote kernel; what a cut may have swallowed is sent again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from typing import NamedTuple

import zmq

from openhcs_jupyter.kernel.passing import Passer

_LATEST_S = 60.0
"""A cut is noticed long before; what was sent earlier has arrived if the kernel has said anything since."""
_MOST_BYTES = 32_000_000
_MOST_CLIENTS = 64


class _Sent(NamedTuple):
    at: float
    client: bytes
    frames: list[bytes]
    size: int


class Requests(Passer):
    """Stands between the clients' shell sockets and the kernel's.

    A kernel takes each message once, by its signature, so that sending one again does no harm.

    Parameters
    ----------
    address
        Where clients connect, ``tcp://HOST:PORT``.
    kernel
        The forwarded socket of the kernel's shell.
    """

    def __init__(self, address: str, kernel: str) -> None:
        options = {zmq.ROUTER_HANDOVER: 1, zmq.SNDHWM: 0, zmq.RCVHWM: 0, zmq.LINGER: 1000}
        super().__init__("openhcs-requests", address, zmq.ROUTER, options)
        self._kernel = f"ipc://{kernel}"
        self._lines: OrderedDict[bytes, zmq.Socket[bytes]] = OrderedDict()
        """A socket for each client, which the kernel knows by the client's own name: it asks for input by it."""
        self._poller = zmq.Poller()
        self._sent: deque[_Sent] = deque()
        self._bytes = 0
        self._is_cut = threading.Event()
        self._is_another = threading.Event()

    def again(self) -> None:
        """Connect anew after a cut, and send again what may not have arrived."""
        self._is_cut.set()
        self._waker.wake()

    def forget(self) -> None:
        """Send nothing again: another kernel follows, which has not seen it and is not to."""
        self._is_another.set()
        self._waker.wake()

    def _pass(self) -> None:
        for socket in (self._clients, self._waker):
            self._poller.register(socket, zmq.POLLIN)
        while not self._end.is_set():
            ready = dict(self._poller.poll())
            if self._waker.fileno() in ready:
                self._waker.clear()
            if self._is_another.is_set():
                self._is_another.clear()
                self._sent.clear()
                self._bytes = 0
            for client, socket in list(self._lines.items()):
                if socket in ready:
                    self._clients.send_multipart([client, *socket.recv_multipart()])
                    self._drop_old()
            if self._is_cut.is_set():
                self._is_cut.clear()
                self._send_again()
            if self._clients in ready:
                client, *frames = self._clients.recv_multipart()
                self._keep(client, frames)
                self._line(client).send_multipart(frames)

    def _line(self, client: bytes) -> zmq.Socket[bytes]:
        if client not in self._lines:
            if len(self._lines) >= _MOST_CLIENTS:
                self._hang_up(next(iter(self._lines)))
            socket = self._context.socket(zmq.DEALER)
            for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
                socket.setsockopt(option, 0)
            if not client.startswith(b"\0"):  # a name that ZeroMQ made is not for others
                socket.setsockopt(zmq.IDENTITY, client)
            socket.connect(self._kernel)
            self._poller.register(socket, zmq.POLLIN)
            self._lines[client] = socket
        self._lines.move_to_end(client)
        return self._lines[client]

    def _hang_up(self, client: bytes) -> None:
        socket = self._lines.pop(client)
        self._poller.unregister(socket)
        socket.close()

    def _keep(self, client: bytes, frames: list[bytes]) -> None:
        size = sum(map(len, frames))
        self._sent.append(_Sent(time.monotonic(), client, frames, size))
        self._bytes += size
        while self._bytes > _MOST_BYTES:
            self._bytes -= self._sent.popleft().size

    def _drop_old(self) -> None:
        """Forget what has surely arrived: the kernel speaks, and this was sent long before."""
        before = time.monotonic() - _LATEST_S
        while self._sent and self._sent[0].at < before:
            self._bytes -= self._sent.popleft().size

    def _send_again(self) -> None:
        for client in list(self._lines):
            self._hang_up(client)
            self._line(client)  # also where nothing is sent again: a reply may be on its way
        for sent in self._sent:
            self._line(sent.client).send_multipart(sent.frames)
