"""A kernel as a source: announcements and planes come over ZeroMQ, or planes are mapped where the kernel is near."""

from __future__ import annotations

import ipaddress
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.assembling import settle
from openhcs_jupyter.streaming.board import Board
from openhcs_jupyter.streaming.fetching import Fetchers
from openhcs_jupyter.streaming.keys import (
    FILE_VERSION,
    ConnectionFile,
    Endpoint,
    KeyPair,
    machine,
    read_private,
)
from openhcs_jupyter.streaming.layers import LinkChanged, RunAnnounced
from openhcs_jupyter.streaming.local import plane_here, table_here
from openhcs_jupyter.streaming.planes import Reader
from openhcs_jupyter.streaming.session import Session
from openhcs_jupyter.streaming.sockets import Monitor, Waker, join_curve, keep_memory, prepare, received
from openhcs_jupyter.streaming.source import Listener, Plane, PlaneRequest, Source, TableRequest
from openhcs_jupyter.streaming.wire import (
    MOST_MESSAGE_BYTES,
    Message,
    encode,
)

if TYPE_CHECKING:
    import pyarrow as pa

_TICK_MS = 100
_THREADS = 2


class NetworkSource(Source):
    """What connecting and listening have in common: one thread that owns the sockets.

    Parameters
    ----------
    mapping
        Map planes of a kernel on the same machine; False treats every kernel as if it were on another one.
    """

    def __init__(self, *, mapping: bool = True) -> None:
        self._mapping = mapping
        self._machine = machine() if mapping else ""
        self._board = Board()
        self._near: dict[str, bool] = {}
        self._reader = Reader()
        self._fetchers = Fetchers(_THREADS)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._waker = Waker()
        self._poller = zmq.Poller()
        self._woken = self._waker.fileno()
        self._poller.register(self._woken, zmq.POLLIN)
        self._orders: deque[Callable[[], None]] = deque()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="openhcs-viewer-link", daemon=True)

    def start(self) -> None:
        """Begin to look for runs."""
        keep_memory()
        self._open()
        self._thread.start()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener everything that is known, then everything new."""
        return self._board.subscribe(listener)

    def fetch(self, request: PlaneRequest) -> Future[Plane]:
        """Ask for a plane, or map it."""
        if self._is_near(request.run):
            return self._fetchers.submit(lambda: plane_here(self._board, self._reader, request), request.urgency)
        return self._ask(request)

    def fetch_table(self, request: TableRequest) -> Future[pa.Table]:
        """Ask for a table, or map it."""
        if self._is_near(request.run):
            return self._fetchers.submit(lambda: table_here(self._board, self._reader, request), request.urgency)
        return self._ask(request)

    def close(self) -> None:
        """End threads and connections."""
        self._end.set()
        self._waker.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._fetchers.close()

    @property
    @abstractmethod
    def _sessions(self) -> Sequence[Session]:
        """All sessions, with kernels that are there or lost."""

    @abstractmethod
    def _open(self) -> None:
        """Make the sockets and register them with the poller."""

    @abstractmethod
    def _look(self, ready: dict[Any, int]) -> None:
        """Take what has arrived."""

    @abstractmethod
    def _close(self) -> None:
        """Close the sockets."""

    def _ask(self, request: PlaneRequest | TableRequest) -> Future[Any]:
        future: Future[Any] = Future()
        if self._end.is_set():
            future.cancel()
            return future

        self._order(lambda: self._request(request, future))
        return future

    def _request(self, request: PlaneRequest | TableRequest, future: Future[Any]) -> None:
        ready = self._board.latest(("ready", request.run, request.layer, request.well, request.field))
        session = self._session_of(request.run)
        if ready is None or session is None:
            where = f"well {request.well}, field {request.field}"
            settle(future, error=StreamError(f"Layer {request.layer} of run {request.run} is not there at {where}."))
            return
        number = session.request(request, future)
        future.add_done_callback(
            lambda done: self._order(lambda: session.withdraw(number)) if done.cancelled() else None
        )

    def _session_of(self, run: str) -> Session | None:
        found = [session for session in self._sessions if run in session.runs]
        return next((session for session in found if session.is_connected), found[0] if found else None)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        if threading.current_thread() is not self._thread:
            self._waker.wake()

    def _is_near(self, run: str) -> bool:
        if not self._mapping:
            return False
        near = self._near.get(run)
        if near is None:
            announced = self._board.latest(("run", run))
            session = self._session_of(run)
            if not isinstance(announced, RunAnnounced) or session is None:
                return False
            folder = Path(announced.view.folder)
            near = self._near[run] = session.is_near and (folder / "run.json").is_file()
        return near

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                ready = dict(self._poller.poll(_TICK_MS))
                if self._woken in ready:
                    self._waker.clear()
                self._look(ready)
                while self._orders:
                    self._orders.popleft()()
                for session in self._sessions:
                    session.tick()
        finally:
            for session in self._sessions:
                session.close()
            self._close()
            self._context.destroy(linger=200)
            self._waker.close()
            self._board.post(LinkChanged(link="closed"))


class RemoteSource(NetworkSource):
    """A kernel that serves viewers.

    Parameters
    ----------
    endpoint
        Its addresses.
    name
        For people.
    server_key
        The kernel's public key; empty where the addresses are Unix sockets.
    keys
        The viewer's.
    mapping
        Map planes of a kernel on the same machine; False treats every kernel as if it were on another one.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str = "",
        server_key: str = "",
        keys: KeyPair | None = None,
        mapping: bool = True,
    ) -> None:
        super().__init__(mapping=mapping)
        self._endpoint = endpoint
        self._name = name
        self._server_key = server_key
        self._keys = keys
        self._session = Session(self._board, self._send, self._fetchers, machine=self._machine)

    @classmethod
    def of(cls, file: Path) -> RemoteSource:
        """Return the source of a connection file.

        Raises
        ------
        StreamError
            If it is none, or the kernel cannot be reached from here.
        """
        found = read_private(file, ConnectionFile)
        check_version(found, str(file))
        here = found.machine == machine()
        for endpoint in found.endpoints:
            private = endpoint.control.startswith("ipc://")
            if private and here:
                return cls(endpoint, name=found.name)
            if not private and (here or not _is_loopback(endpoint)):
                return cls(endpoint, name=found.name, server_key=found.server_key, keys=found.viewer)
        raise StreamError(
            f"{found.name} listens on its own machine only.",
            "Go through SSH: openhcs-jupyter viewer HOST:FILE, with the file's path on that machine.",
        )

    @property
    def _sessions(self) -> Sequence[Session]:
        return (self._session,)

    def _open(self) -> None:
        self._control = self._context.socket(zmq.DEALER)
        self._news = self._context.socket(zmq.SUB)
        self._news.subscribe(b"")
        for socket in (self._control, self._news):
            prepare(socket, most_bytes=MOST_MESSAGE_BYTES)
            if self._keys is not None:
                join_curve(socket, self._keys, self._server_key)
            self._poller.register(socket, zmq.POLLIN)
        self._monitor = Monitor(self._control)
        self._poller.register(self._monitor.events, zmq.POLLIN)
        self._board.post(LinkChanged(link="connecting", detail=self._name))
        self._control.connect(self._endpoint.control)
        self._news.connect(self._endpoint.news)

    def _look(self, ready: dict[Any, int]) -> None:
        if self._monitor.events in ready:
            for event in self._monitor.read():
                if event == "connected":
                    self._session.begin()
                elif event == "lost":
                    self._session.lose()
                else:
                    self._board.post(
                        LinkChanged(link="refused", detail="The kernel does not know this key; take its newest file.")
                    )
        for socket in (self._news, self._control):
            if socket in ready and (frames := received(socket)):
                self._session.handle(frames)

    def _close(self) -> None:
        self._monitor.close()
        self._control.close()
        self._news.close()

    def _send(self, message: Message) -> None:
        with suppress(zmq.Again):  # the session begins anew when the connection is back
            self._control.send(encode(message), zmq.NOBLOCK)


def check_version(file: ConnectionFile, named: str) -> None:
    """Check that a connection file is of a version that is understood here.

    Raises
    ------
    StreamError
        If it is not.
    """
    if file.version != FILE_VERSION:
        raise StreamError(f"{named} is of another release of openhcs-jupyter.", "Bring both sides to the same one.")


def _is_loopback(endpoint: Endpoint) -> bool:
    host = endpoint.control.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
