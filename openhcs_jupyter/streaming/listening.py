"""A viewer that listens, for kernels that can reach it and not the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.frames import MalformedError
from openhcs_jupyter.streaming.keys import (
    Invitation,
    KeyPair,
    data_folder,
    new_keys,
    read_private,
    write_private,
)
from openhcs_jupyter.streaming.layers import LinkChanged
from openhcs_jupyter.streaming.remote import NetworkSource
from openhcs_jupyter.streaming.session import Session
from openhcs_jupyter.streaming.sockets import Doorman, prepare, received, serve_curve
from openhcs_jupyter.streaming.wire import (
    MOST_MESSAGE_BYTES,
    Enrolled,
    Knock,
    Message,
    encode,
    read_from_kernel,
)

_CONTROL, _NEWS = "control", "news"
_MOST_KEYS = 1000


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a listening viewer keeps: its own keys, and those of kernels that were enrolled."""

    keys: KeyPair
    enrolled: tuple[str, ...] = ()


class ListeningSource(NetworkSource):
    """Kernels that come to this viewer. Nobody else can push anything into it.

    Parameters
    ----------
    host
        Address to listen at.
    port
        Of requests and planes; announcements use the next one.
    called
        By what name or address kernels reach this machine.
    folder
        Where keys are kept; the user's data folder if left out.
    mapping
        Map planes of a kernel on the same machine; False treats every kernel as if it were on another one.

    Raises
    ------
    StreamError
        If the kept keys cannot be read.
    """

    def __init__(self, host: str, port: int, *, called: str, folder: Path | None = None, mapping: bool = True) -> None:
        super().__init__(mapping=mapping)
        self._host, self._port, self._called = host, port, called
        self._file = (folder or data_folder()) / "viewer.json"
        self._kept = read_private(self._file, _Kept) if self._file.exists() else _Kept(keys=new_keys())
        write_private(self._file, self._kept)
        self._token: KeyPair | None = new_keys()
        self._by_kernel: dict[bytes, Session] = {}

    @property
    def invitation(self) -> Invitation:
        """What is given to a kernel: with a token, as long as no kernel has used it."""
        token = self._token.secret if self._token is not None else ""
        return Invitation(host=self._called, port=self._port, key=self._kept.keys.public, token=token)

    def invite(self) -> Invitation:
        """Return an invitation for one more kernel."""
        self._token = new_keys()
        return self.invitation

    @property
    def _sessions(self) -> Sequence[Session]:
        return list(self._by_kernel.values())

    def _open(self) -> None:
        self._doorman = Doorman(self._context, self._admits)
        self._control = self._context.socket(zmq.ROUTER)
        self._control.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._news = self._context.socket(zmq.SUB)
        self._news.subscribe(b"")
        try:
            for socket, domain, port in ((self._control, _CONTROL, self._port), (self._news, _NEWS, self._port + 1)):
                prepare(socket, most_bytes=MOST_MESSAGE_BYTES)
                serve_curve(socket, self._kept.keys, domain)
                socket.bind(f"tcp://{self._host}:{port}")
                self._poller.register(socket, zmq.POLLIN)
        except zmq.ZMQError as error:
            self._close()
            raise StreamError(
                f"{self._host}:{self._port} and {self._port + 1} cannot be listened at: {error}", "Choose another port."
            ) from error
        self._board.post(LinkChanged(link="connecting", detail="Waiting for a kernel."))

    def _look(self, ready: dict[Any, int]) -> None:
        if self._news in ready and (frames := received(self._news)):
            for session in self._by_kernel.values():
                session.overhear(frames)
        if self._control in ready and len(frames := received(self._control)) > 1:
            peer, *frames = frames
            self._take(peer.bytes, frames, str(frames[0].get("User-Id")))

    def _close(self) -> None:
        self._control.close()
        self._news.close()
        self._doorman.close()

    def _take(self, peer: bytes, frames: Sequence[zmq.Frame], key: str) -> None:
        knock = self._knock(frames)
        session = self._by_kernel.get(peer)
        if key in self._kept.enrolled:
            if session is None:
                session = Session(self._board, lambda m: self._send(peer, m), self._fetchers, machine=self._machine)
                self._by_kernel[peer] = session
            if knock is not None:
                session.begin()
            else:
                session.handle(frames)
        elif knock is not None and len(knock.key) == 40 and self._token is not None and key == self._token.public:
            self._enrol(knock.key)
            self._send(peer, Enrolled())

    def _knock(self, frames: Sequence[zmq.Frame]) -> Knock | None:
        if len(frames) != 1:
            return None
        try:
            message, _ = read_from_kernel(frames)
        except MalformedError:
            return None
        return message if isinstance(message, Knock) else None

    def _enrol(self, key: str) -> None:
        self._token = None
        self._kept = msgspec.structs.replace(self._kept, enrolled=(*self._kept.enrolled, key)[-_MOST_KEYS:])
        write_private(self._file, self._kept)

    def _admits(self, domain: str, key: str) -> bool:
        token = self._token
        return key in self._kept.enrolled or (domain == _CONTROL and token is not None and key == token.public)

    def _send(self, peer: bytes, message: Message) -> None:
        try:
            self._control.send_multipart([peer, encode(message)], zmq.NOBLOCK)
        except zmq.Again:
            return  # the session begins anew when the connection is back
