"""What passes messages between Jupyter's clients here and a remote kernel: a thread that owns the sockets of both."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping

import zmq

from openhcs_jupyter.streaming.sockets import Waker


class Passer(ABC):
    """Stands between a socket of the clients and one of the kernel, in a thread.

    Parameters
    ----------
    name
        Of the thread.
    address
        Where clients connect, ``tcp://HOST:PORT``.
    kind
        Of the socket there, such as ``zmq.ROUTER``.
    options
        Of that socket.
    """

    def __init__(self, name: str, address: str, kind: int, options: Mapping[zmq.SocketOption, int]) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._clients = self._context.socket(kind)
        for option, value in options.items():
            self._clients.setsockopt(option, value)
        self._clients.bind(address)
        self._end = threading.Event()
        self._waker = Waker()
        self._thread = threading.Thread(target=self._pass, name=name, daemon=True)

    def start(self) -> None:
        """Begin to pass messages on."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the sockets."""
        self._end.set()
        self._waker.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._context.destroy()
        self._waker.close()

    @abstractmethod
    def _pass(self) -> None:
        """Pass messages on until `_end` is set; the waker wakes it."""
