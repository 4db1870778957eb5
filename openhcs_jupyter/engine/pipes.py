"""A pipe between a run's conductor and a worker, on which whole objects go."""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

_SIZE = struct.Struct("<Q")


class Pipe:
    """One end; what `multiprocessing.connection.Connection` does, whose import takes a new process 5 ms.

    One thread may send while another receives.

    Parameters
    ----------
    end
        A connected stream socket, which it closes.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """Return its file descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def send(self, value: object) -> None:
        """Send an object.

        Raises
        ------
        OSError
            If the other end is closed.
        """
        self.send_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes, as `send` does."""
        self._socket.sendall(_SIZE.pack(len(data)) + data)

    def recv(self) -> Any:
        """Receive an object from a process of ours.

        Raises
        ------
        EOFError
            If the other end is closed.
        OSError
            If it was closed before it had read everything.
        """
        return pickle.loads(self.recv_bytes())  # noqa: S301 - from a process of ours

    def recv_bytes(self) -> bytearray:
        """Receive bytes, as `recv` does."""
        return self._read(_SIZE.unpack(self._read(_SIZE.size))[0])

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self._socket.recv_into(rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return data
