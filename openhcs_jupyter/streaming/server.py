"""A kernel's side of the stream: one thread that follows runs, announces what is ready, and answers viewers."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import zmq

from openhcs_jupyter.errors import OpenHCSError, StreamError
from openhcs_jupyter.streaming import doors
from openhcs_jupyter.streaming.board import Board
from openhcs_jupyter.streaming.doors import CallingDoor, Door
from openhcs_jupyter.streaming.follower import Follower
from openhcs_jupyter.streaming.keys import (
    FILE_VERSION,
    ConnectionFile,
    Endpoint,
    Invitation,
    KeyPair,
    machine,
    new_keys,
    private_folder,
    read_private,
    write_private,
)
from openhcs_jupyter.streaming.layers import AnyAnnouncement, LinkChanged
from openhcs_jupyter.streaming.serving import PixelServer
from openhcs_jupyter.streaming.sockets import Doorman, Waker, keep_memory
from openhcs_jupyter.streaming.wire import News, Told, encode

_LOOK_S, _ENDED_S = 0.075, 0.5
"""Journals of runs that go on are looked at so often, those of others in case they are taken up again."""
_IDLE_MS = 250
_SLICE_S = 0.005
_STATE = "server.json"
CONNECTION = "connection.json"


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """What a kernel that starts again takes up: keys, addresses, runs."""

    keys: KeyPair
    viewer: KeyPair
    port: int
    news_port: int
    runs: tuple[str, ...] = ()
    invitations: tuple[Invitation, ...] = ()


class _Followed:
    """A run that is announced."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.news: Iterator[AnyAnnouncement] = iter(())
        self.look_at = 0.0


class StreamServer:
    """Serves viewers for one kernel, in a thread.

    It reads finished results from the run store only, so that it holds up no run. What is sent are maps of files, so
    that a viewer that reads slowly costs no memory.

    Parameters
    ----------
    folder
        Holds the sockets, the connection file and what a restarted kernel takes up; only its owner can enter it.
    name
        Of the kernel, for people.
    host
        Address of the TCP ports.
    port
        Of requests and planes; announcements use the next one. 0 takes free ones.
    keys
        By which listening viewers know this kernel.
    """

    def __init__(self, folder: Path, *, name: str, host: str, port: int, keys: KeyPair) -> None:
        self._folder = private_folder(folder)
        self._name = name
        self._host = host
        self._caller = keys
        self._state = self._take_up(port)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._waker = Waker()
        self._poller = zmq.Poller()
        self._woken = self._waker.fileno()
        self._poller.register(self._woken, zmq.POLLIN)
        self._orders: deque[Callable[[], None]] = deque()
        self._end = threading.Event()
        self._epoch = secrets.token_hex(8)
        self._board = Board()
        self._board.subscribe(self._announce)
        self._untold: list[Told] = []
        self._doors: dict[bytes, Door] = {}
        """By the byte with which the names of their viewers begin."""
        self._pixels = PixelServer(
            self._board, self._send, self._waker.wake, name=name, machine=machine(), epoch=self._epoch
        )
        self._runs: dict[Path, _Followed] = {}
        self._look_at = 0.0
        self._thread = threading.Thread(target=self._serve, name="openhcs-stream", daemon=True)

    @property
    def connection_file(self) -> Path:
        """What viewers connect by."""
        return self._folder / CONNECTION

    @property
    def local(self) -> Endpoint:
        """The Unix sockets, for this machine and for SSH to forward; once it has started."""
        return self._local

    @property
    def viewers(self) -> int:
        """How many viewers are connected."""
        return self._pixels.viewers

    def start(self) -> None:
        """Bind the sockets, write the connection file and begin to serve.

        Raises
        ------
        StreamError
            If an address is taken.
        """
        keep_memory()
        self._doorman = Doorman(self._context, lambda _, key: key == self._state.viewer.public)
        try:
            local = doors.private_door(self._context, self._folder)
            network = doors.network_door(
                self._context, self._host, self._state.port, self._state.news_port, self._state.keys
            )
        except zmq.ZMQError as error:
            self._doorman.close()
            self._pixels.close()
            self._waker.close()
            self._context.destroy(linger=0)
            raise StreamError(
                f"Viewers cannot be served at {self._host}:{self._state.port}: {error}",
                "Choose another address: %openhcs config stream_host ADDRESS, stream_port PORT.",
            ) from error
        assert local.endpoint is not None
        self._local = local.endpoint
        self._add(local)
        self._add(network)
        endpoints = tuple(door.endpoint for door in self._doors.values() if door.endpoint is not None)
        port, news_port = network.ports
        self._state = msgspec.structs.replace(self._state, port=port, news_port=news_port)
        self._keep()
        write_private(
            self.connection_file,
            ConnectionFile(
                version=FILE_VERSION,
                name=self._name,
                machine=machine(),
                endpoints=endpoints,
                server_key=self._state.keys.public,
                viewer=self._state.viewer,
            ),
        )
        for run in self._state.runs:
            self._order(partial(self._show, Path(run)))
        for invitation in self._state.invitations:
            self._order(partial(self._call, invitation))
        self._thread.start()

    def show(self, run: Path) -> None:
        """Announce a run, by its folder in the run store.

        Raises
        ------
        RunError
            If it holds no run that can be read.
        """
        Follower(run)
        if str(run) not in self._state.runs:
            self._state = msgspec.structs.replace(self._state, runs=(*self._state.runs, str(run)))
            self._keep()
        self._order(lambda: self._show(run))

    def call(self, invitation: Invitation) -> None:
        """Connect to a viewer that listens, and go on trying while it is not there."""
        known = msgspec.structs.replace(invitation, token="")
        if known not in self._state.invitations:
            self._state = msgspec.structs.replace(self._state, invitations=(*self._state.invitations, known))
            self._keep()
        self._order(lambda: self._call(invitation))

    def is_called(self, invitation: Invitation) -> bool:
        """Tell whether a listening viewer has let this kernel in."""
        return any(
            isinstance(door, CallingDoor) and door.calls == invitation.endpoint and door.is_let_in
            for door in list(self._doors.values())
        )

    def close(self) -> None:
        """Tell the viewers, end the thread and close the sockets; a kernel that starts again takes up the rest."""
        self._end.set()
        self._waker.wake()
        if self._thread.is_alive():
            self._thread.join()

    def _take_up(self, port: int) -> _State:
        with suppress(StreamError):
            kept = read_private(self._folder / _STATE, _State)
            return (
                kept if not port or kept.port == port else msgspec.structs.replace(kept, port=port, news_port=port + 1)
            )
        return _State(keys=new_keys(), viewer=new_keys(), port=port, news_port=port + 1 if port else 0)

    def _keep(self) -> None:
        write_private(self._folder / _STATE, self._state)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._waker.wake()

    def _show(self, run: Path) -> None:
        if run not in self._runs:
            with suppress(OpenHCSError):  # a run that was removed since
                self._runs[run] = _Followed(Follower(run))
                self._look_at = 0.0

    def _call(self, invitation: Invitation) -> None:
        for mark, door in list(self._doors.items()):
            if door.calls == invitation.endpoint:
                self._close_door(mark)  # the new line may have another token or key
        known_as = hashlib.sha256(self._state.keys.secret.encode()).hexdigest().encode()
        self._add(doors.calling_door(self._context, invitation, self._caller, self._name, known_as))

    def _add(self, door: Door) -> None:
        mark = next(bytes([n]) for n in range(256) if bytes([n]) not in self._doors)
        self._doors[mark] = door
        for socket in door.polled:
            self._poller.register(socket, zmq.POLLIN)

    def _close_door(self, mark: bytes) -> None:
        door = self._doors.pop(mark)
        for socket in door.polled:
            self._poller.unregister(socket)
        door.close()

    def _send(self, peer: bytes, frames: Sequence[Any]) -> bool:
        door = self._doors.get(peer[:1])
        return door.send(peer[1:], frames) if door is not None else True

    def _announce(self, announcement: AnyAnnouncement) -> None:
        if not isinstance(announcement, LinkChanged):
            self._untold.append(announcement)

    def _publish(self) -> None:
        """Send what has been announced as one message: each costs the run's core a fifth of a millisecond."""
        if self._untold:
            first = self._board.number - len(self._untold) + 1
            news = encode(News(epoch=self._epoch, number=first, announcements=tuple(self._untold)))
            self._untold.clear()
            for door in self._doors.values():
                door.publish(news)

    def _serve(self) -> None:
        try:
            while not self._end.is_set():
                pause = self._follow()
                self._publish()
                ready = dict(self._poller.poll(pause))
                if self._woken in ready:
                    self._waker.clear()
                while self._orders:
                    self._orders.popleft()()
                for mark, door in list(self._doors.items()):
                    if (message := door.look(ready)) is not None:
                        peer, frames = message
                        self._pixels.handle(mark + peer, frames)
                    if isinstance(door, CallingDoor) and door.is_done:
                        self._call(door.known)
                self._pixels.pump()
            self._pixels.close()
        finally:
            for mark in list(self._doors):
                self._close_door(mark)
            self._doorman.close()
            self._context.destroy(linger=200)
            self._waker.close()

    def _follow(self) -> int:
        """Announce what has happened, for a moment, if somebody watches; tells how many ms later there may be more."""
        now = time.monotonic()
        if now < self._look_at:
            return int(1000 * (self._look_at - now)) + 1
        if not self._pixels.is_watched:
            return _IDLE_MS
        end = now + _SLICE_S
        for path, followed in list(self._runs.items()):
            if now < followed.look_at:
                continue
            try:
                for announcement in followed.news:
                    self._board.post(announcement)
                    if time.monotonic() > end:
                        return 0
            except OpenHCSError:
                del self._runs[path]  # its folder is gone or damaged; what was announced stays
                continue
            followed.news = followed.follower.announcements()
            followed.look_at = now + (_LOOK_S if followed.follower.status == "running" else _ENDED_S)
        pause = min((followed.look_at - now for followed in self._runs.values()), default=_ENDED_S)
        self._look_at = now + pause
        return int(1000 * pause) + 1
