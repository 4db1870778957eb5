"""ZeroMQ sockets of the stream: encrypted on TCP, bounded, and quick to notice that the other side is gone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from openhcs_jupyter.streaming.keys import KeyPair

Connected = Callable[[], None]
_LARGEST = (1 << 25) - (1 << 13)
_MOST_QUEUED = 2000
_NOBLOCK = int(zmq.NOBLOCK)
_BEAT_MS = 1000
_SILENT_MS = 5000
_SEND_BUFFER = 1 << 20


def prepare(socket: zmq.Socket[bytes], *, most_bytes: int) -> None:
    """Set what all sockets of the stream have in common, before they are bound or connected."""
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = _MOST_QUEUED
    socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _BEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _SILENT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, _SILENT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _SILENT_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 2000)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.IPV6, 1)


def serve_curve(socket: zmq.Socket[bytes], keys: KeyPair, domain: str) -> None:
    """Let in only who has a key that the authenticator knows in this domain."""
    socket.curve_server = True
    socket.curve_secretkey = keys.secret.encode()
    socket.curve_publickey = keys.public.encode()
    socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())


def join_curve(socket: zmq.Socket[bytes], keys: KeyPair, server: str) -> None:
    """Speak only with who has the secret key of `server`."""
    socket.curve_serverkey = server.encode()
    socket.curve_secretkey = keys.secret.encode()
    socket.curve_publickey = keys.public.encode()


def bind_private(socket: zmq.Socket[bytes], path: Path) -> str:
    """Bind a Unix socket (mode 0600) in a folder that only its owner can enter; returns its address."""
    path.unlink(missing_ok=True)
    socket.bind(f"ipc://{path}")
    path.chmod(0o600)
    return f"ipc://{path}"


def keep_memory() -> None:
    """Let the C library keep what planes leave; else it gives memory back after some and takes it anew for others.

    glibc gives back from twice the size of the largest block that it has seen freed, up to blocks of 32 MB: one such is
    shown to it, and takes no memory as nobody writes to it. Taking a plane of 8 MB anew costs 2,048 page faults.
    It goes on to adapt itself, as a kernel or napari needs it; workers have `engine.allocator.keep_in_one_heap`.
    """
    import numpy as np

    np.empty(_LARGEST, np.uint8)


def received(socket: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """Return the frames of the next message, without copying them; none if no message is there.

    ``recv_multipart`` would ask the socket after each frame whether there are more, which takes longer than the frame.
    """
    try:
        frames = [socket.recv(_NOBLOCK, copy=False)]
    except zmq.Again:
        return []
    while frames[-1].more:
        frames.append(socket.recv(_NOBLOCK, copy=False))
    return frames


class Waker:
    """Wakes a thread that polls sockets. `wake` may be called from any thread."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._set = False
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Return what is polled."""
        return self._ours.fileno()

    def wake(self) -> None:
        """Make the file readable."""
        with self._lock:
            if not self._set:
                self._set = True
                try:
                    self._theirs.send(b"\0")
                except OSError:
                    self._set = False

    def clear(self) -> None:
        """Make the file unreadable again, before looking what there is to do."""
        with self._lock:
            self._set = False
            try:
                self._ours.recv(16)
            except OSError:
                return

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._set = True
        self._ours.close()
        self._theirs.close()


class Monitor:
    """Tells when a connecting socket has shaken hands, was turned away, or lost its connection."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self.events: zmq.Socket[bytes] = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_DISCONNECTED
        )

    def read(self) -> list[str]:
        """Return what has happened: ``connected``, ``refused`` or ``lost``, in order."""
        found = []
        while self.events.poll(0):
            event: Any = parse_monitor_message(self.events.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                found.append("connected")
            elif event == zmq.EVENT_DISCONNECTED:
                found.append("lost")
            else:
                found.append("refused")
        return found

    def close(self) -> None:
        """Stop to watch."""
        self._socket.disable_monitor()
        self.events.close(linger=0)


class Widener:
    """Gives each connection that a Unix socket accepts a send buffer of a megabyte: planes cross it a tenth faster.

    With the system's own, sender and reader wait for each other forty times a plane of 8 MB. ZeroMQ's option does
    nothing for Unix sockets. Some systems allow less than is asked for.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self.events: zmq.Socket[bytes] = socket.get_monitor_socket(zmq.EVENT_ACCEPTED)

    def read(self) -> None:
        """Widen the connections that were made since."""
        while self.events.poll(0):
            event: Any = parse_monitor_message(self.events.recv_multipart())
            with suppress(OSError):  # it may have gone by now
                accepted = socket.socket(fileno=event["value"])
                try:
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                finally:
                    accepted.detach()  # the file is ZeroMQ's

    def close(self) -> None:
        """Stop to watch."""
        self._socket.disable_monitor()
        self.events.close(linger=0)


class Doorman:
    """Knows who may come in: answers ZeroMQ's questions about keys, in a thread of its own.

    Parameters
    ----------
    context
        Whose sockets it guards.
    admits
        Is called with a domain and a public key in Z85; tells whether it is let in.
    """

    def __init__(self, context: zmq.Context[Any], admits: Callable[[str, str], bool]) -> None:
        self._admits = admits
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind("inproc://zeromq.zap.01")
        self._waker = Waker()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="openhcs-doorman", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        self._waker.wake()
        self._thread.join()
        self._waker.close()

    def _answer(self) -> None:
        import zmq.utils.z85

        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._waker, zmq.POLLIN)
        while not self._end.is_set():
            if self._socket not in dict(poller.poll()):
                continue
            frames = self._socket.recv_multipart()
            # RFC 27: version, request, domain, address, identity, mechanism, credentials.
            key = ""
            if len(frames) == 7 and frames[0] == b"1.0" and frames[5] == b"CURVE" and len(frames[6]) == 32:
                key = zmq.utils.z85.encode(frames[6]).decode()
            admitted = bool(key) and self._admits(frames[2].decode(errors="replace"), key)
            status, user = (b"200", key.encode()) if admitted else (b"400", b"")
            self._socket.send_multipart([b"1.0", frames[1] if len(frames) > 1 else b"", status, b"", user, b""])
        self._socket.close()
