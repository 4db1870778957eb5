"""Answers viewers, without sockets: who asks for what, what may be sent to whom, and what is prepared next."""

from __future__ import annotations

import heapq
import itertools
import mmap
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.board import Board
from openhcs_jupyter.streaming.codecs import choose_codec, dtype_name, pack, rows_of_part
from openhcs_jupyter.streaming.fetching import Fetchers, Urgency
from openhcs_jupyter.streaming.frames import MalformedError
from openhcs_jupyter.streaming.layers import LinkChanged
from openhcs_jupyter.streaming.planes import Reader, coarse, file_in, kind_of
from openhcs_jupyter.streaming.wire import (
    WIRE_VERSION,
    Ask,
    Bye,
    Credit,
    Drop,
    Hello,
    Message,
    Part,
    Ping,
    Pong,
    Probe,
    Refused,
    Rows,
    Said,
    Want,
    WantTable,
    Welcome,
    encode,
    read_from_viewer,
)

Peer = bytes
Send = Callable[[Peer, Sequence[Any]], bool]
"""Hands frames to a viewer's connection; False if it takes none now."""

PAGE = 500
_AT_HAND = 3
"""Payloads of a viewer that are prepared before they may be sent."""
_MOST_WANTS = 4096
_MOST_PROBE = 1 << 20
_SILENT_S = 30.0
_WATCHED_S = 1.5


class _Payload(NamedTuple):
    """What is sent for a request, or a part of it."""

    header: bytes
    data: Any
    last: bool


class _Work:
    """One request of a viewer, sent in one part or several."""

    def __init__(self, want: Want | WantTable, session: int, urgency: Urgency) -> None:
        self.want = want
        self.session = session
        self.urgency = urgency
        self.dropped = False
        self.plane: NDArray[np.generic] | None = None
        self.version = ""
        self.row = 0


class _Viewer:
    """One viewer's session."""

    def __init__(self, session: int, near: bool) -> None:
        self.session = session
        self.near = near
        self.granted = 0
        self.sent = 0
        self.rate = 0.0
        self.wants: dict[int, _Work] = {}
        self.waiting: list[tuple[Urgency, int, _Work]] = []
        self.prepared: list[tuple[Urgency, int, _Work, _Payload]] = []
        self.preparing = 0
        self.seen = time.monotonic()


class PixelServer:
    """Answers all viewers of a kernel. Used by one thread; preparing is done by another, which calls `wake`.

    Parameters
    ----------
    board
        What was announced.
    send
        Hands frames to a viewer's connection.
    wake
        Makes the thread that uses this object call `pump` soon.
    name, machine, epoch
        As `Welcome` tells them.
    """

    def __init__(
        self, board: Board, send: Send, wake: Callable[[], None], *, name: str, machine: str, epoch: str
    ) -> None:
        self._board = board
        self._send = send
        self._wake = wake
        self._name = name
        self._machine = machine
        self._epoch = epoch
        self._reader = Reader()
        self._fetchers = Fetchers(1)
        self._viewers: dict[Peer, _Viewer] = {}
        self._numbers = itertools.count()
        self._done: deque[tuple[Peer, _Viewer, _Work, Future[_Payload]]] = deque()
        self.malformed = 0
        """Messages that were no messages; they are passed over."""

    @property
    def viewers(self) -> int:
        """How many viewers are connected."""
        return len(self._viewers)

    @property
    def is_watched(self) -> bool:
        """Whether a viewer has said something of late; they do every second."""
        now = time.monotonic()
        return any(now - viewer.seen < _WATCHED_S for viewer in self._viewers.values())

    @property
    def prepared(self) -> int:
        """How many payloads wait for credit."""
        return sum(len(viewer.prepared) for viewer in self._viewers.values())

    def handle(self, peer: Peer, frames: Sequence[Any]) -> None:
        """Take one message of a viewer; what is no message is passed over."""
        try:
            message = read_from_viewer(frames)
        except MalformedError:
            self.malformed += 1
            return
        if isinstance(message, Hello):
            self._greet(peer, message)
            return
        viewer = self._viewers.get(peer)
        if viewer is None:
            return
        viewer.seen = time.monotonic()
        match message:
            case Want() | WantTable():
                self._take(peer, viewer, message)
            case Ping():
                self._probe(peer, viewer, message.probe)
                self._say(peer, Pong(session=viewer.session, number=self._board.number))
            case Credit():
                viewer.granted = max(viewer.granted, message.granted)
                viewer.rate = message.rate
            case Drop():
                for number in message.ids:
                    if (work := viewer.wants.pop(number, None)) is not None:
                        work.dropped = True
            case Ask():
                self._tell(peer, message.after)
            case Bye():
                del self._viewers[peer]

    def pump(self) -> None:
        """Send what is prepared and may be sent, and have prepared what comes next."""
        while self._done:
            self._take_prepared(*self._done.popleft())
        now = time.monotonic()
        for peer, viewer in list(self._viewers.items()):
            if now - viewer.seen > _SILENT_S:
                del self._viewers[peer]
                continue
            self._prepare(peer, viewer)
            while viewer.prepared and viewer.granted > viewer.sent:
                entry = heapq.heappop(viewer.prepared)
                work, payload = entry[2:]
                if not work.dropped:
                    if not self._send(peer, (payload.header, payload.data)):
                        heapq.heappush(viewer.prepared, entry)
                        break
                    viewer.sent += memoryview(payload.data).nbytes
                    if payload.last:
                        viewer.wants.pop(work.want.id, None)
                self._prepare(peer, viewer)

    def close(self) -> None:
        """Tell the viewers, and end preparing."""
        for peer in self._viewers:
            self._say(peer, Bye())
        self._viewers.clear()
        self._fetchers.close()

    def _greet(self, peer: Peer, hello: Hello) -> None:
        if hello.version == WIRE_VERSION:
            near = hello.machine == self._machine
            for work in self._viewers[peer].wants.values() if peer in self._viewers else ():
                work.dropped = True
            self._viewers[peer] = _Viewer(hello.session, near)
        self._say(
            peer,
            Welcome(
                version=WIRE_VERSION,
                session=hello.session,
                epoch=self._epoch,
                name=self._name,
                machine=self._machine,
                number=self._board.number,
            ),
        )

    def _tell(self, peer: Peer, after: int) -> None:
        page, number = self._board.since(after, PAGE)
        told = tuple(announcement for announcement in page if not isinstance(announcement, LinkChanged))
        more = number < self._board.number
        self._say(peer, Said(epoch=self._epoch, number=number, announcements=told, more=more))

    def _probe(self, peer: Peer, viewer: _Viewer, size: int) -> None:
        payload = bytes(max(0, min(size, _MOST_PROBE)) // 4)
        for number in range(4 if payload else 0):
            self._send(peer, (encode(Probe(session=viewer.session, number=number)), payload))

    def _take(self, peer: Peer, viewer: _Viewer, want: Want | WantTable) -> None:
        if want.id in viewer.wants:
            return
        if len(viewer.wants) >= _MOST_WANTS:
            self._refuse(peer, viewer, want.id, f"More than {_MOST_WANTS} requests wait.")
            return
        full = 0 if isinstance(want, WantTable) or want.coarse else 1
        work = _Work(want, viewer.session, (want.priority, full))
        viewer.wants[want.id] = work
        heapq.heappush(viewer.waiting, (work.urgency, next(self._numbers), work))

    def _prepare(self, peer: Peer, viewer: _Viewer) -> None:
        """Have the next payloads of a viewer prepared, as long as it has room for them."""
        while viewer.waiting:
            urgency, _, work = viewer.waiting[0]
            if work.dropped:
                heapq.heappop(viewer.waiting)
                continue
            ahead = sum(other[0] <= urgency for other in viewer.prepared)
            if viewer.preparing + ahead >= _AT_HAND:
                return
            heapq.heappop(viewer.waiting)
            if self._is_ready_made(viewer, work):
                try:
                    payload = self._payload(work, viewer.rate, viewer.near)
                except Exception as error:  # noqa: BLE001 - told to the viewer, as if another thread had done it
                    self._fail(peer, viewer, work, error)
                else:
                    self._keep(viewer, work, payload)
            else:
                viewer.preparing += 1
                prepare = self._preparer(viewer, work)
                self._fetchers.submit(prepare, urgency).add_done_callback(self._noted(peer, viewer, work))

    def _is_ready_made(self, viewer: _Viewer, work: _Work) -> bool:
        """Tell whether a payload is a map of its file, so that no other thread needs to prepare it."""
        want = work.want
        return isinstance(want, WantTable) or (
            not want.coarse and choose_codec(viewer.rate, "image", near=viewer.near) == "raw"
        )

    def _preparer(self, viewer: _Viewer, work: _Work) -> Callable[[], _Payload]:
        rate, near = viewer.rate, viewer.near
        return lambda: self._payload(work, rate, near)

    def _noted(self, peer: Peer, viewer: _Viewer, work: _Work) -> Callable[[Future[_Payload]], None]:
        def note(future: Future[_Payload]) -> None:
            self._done.append((peer, viewer, work, future))
            self._wake()

        return note

    def _take_prepared(self, peer: Peer, viewer: _Viewer, work: _Work, future: Future[_Payload]) -> None:
        viewer.preparing -= 1
        if work.dropped or future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._fail(peer, viewer, work, error)
        else:
            self._keep(viewer, work, future.result())

    def _fail(self, peer: Peer, viewer: _Viewer, work: _Work, error: BaseException) -> None:
        viewer.wants.pop(work.want.id, None)
        if self._viewers.get(peer) is viewer:
            told = str(error) if isinstance(error, StreamError) else f"{type(error).__name__}: {error}"
            self._refuse(peer, viewer, work.want.id, told)

    def _keep(self, viewer: _Viewer, work: _Work, payload: _Payload) -> None:
        """Keep a payload until it may be sent, and come back to a plane of which it is a part only."""
        heapq.heappush(viewer.prepared, (work.urgency, next(self._numbers), work, payload))
        if not payload.last:
            heapq.heappush(viewer.waiting, (work.urgency, next(self._numbers), work))

    def _payload(self, work: _Work, rate: float, near: bool) -> _Payload:
        """Prepare the next part of what was asked for; called in the preparing thread."""
        want = work.want
        view = self._board.view(want.run)
        if isinstance(want, WantTable):
            table = self._board.table(want.run, want.layer, want.well, want.field)
            rows = Rows(id=want.id, session=work.session, version=table.version)
            return _Payload(encode(rows), _file(file_in(view.folder, table.file)), last=True)
        kind = kind_of(view, want.layer)
        if work.plane is None:
            ready = self._board.stack(want.run, want.layer, want.well, want.field)
            plane = self._reader.plane(view.folder, ready, want.t, want.z)
            work.version = ready.version
            work.plane = coarse(plane, kind) if want.coarse else plane
        plane = work.plane
        codec = choose_codec(rate, kind, near=near)
        count = rows_of_part(plane.shape[1] * plane.dtype.itemsize, rate, near=near)
        part = plane[work.row : work.row + count]
        header = Part(
            id=want.id,
            session=work.session,
            version=work.version,
            dtype=dtype_name(plane.dtype),
            shape=(plane.shape[0], plane.shape[1]),
            row=work.row,
            rows=len(part),
            codec=codec,
        )
        data = pack(part, codec)
        work.row += count
        return _Payload(encode(header), data, last=work.row >= plane.shape[0])

    def _refuse(self, peer: Peer, viewer: _Viewer, number: int, message: str) -> None:
        self._say(peer, Refused(id=number, session=viewer.session, message=message))

    def _say(self, peer: Peer, message: Message) -> None:
        self._send(peer, (encode(message),))


def _file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise StreamError(f"{path} cannot be read: {error}") from error
