"""A viewer's side of the stream, without sockets: keeps up with announcements, asks for planes, puts them together."""

from __future__ import annotations

import heapq
import itertools
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.assembling import Assembly, mapped, report, settle, unpack_part
from openhcs_jupyter.streaming.board import Board, Key, key_of
from openhcs_jupyter.streaming.codecs import plane_dtype
from openhcs_jupyter.streaming.fetching import Fetchers, Urgency
from openhcs_jupyter.streaming.frames import MalformedError
from openhcs_jupyter.streaming.layers import COARSE, LinkChanged, RunAnnounced, StackReady, TableReady
from openhcs_jupyter.streaming.rate import LinkRate
from openhcs_jupyter.streaming.source import Plane, PlaneRequest, TableRequest
from openhcs_jupyter.streaming.wire import (
    WIRE_VERSION,
    Ask,
    Bye,
    Credit,
    Drop,
    FromKernel,
    Hello,
    Knock,
    Message,
    News,
    Part,
    Ping,
    Pong,
    Probe,
    Refused,
    Rows,
    Said,
    Told,
    Want,
    WantTable,
    Welcome,
    read_from_kernel,
)

_PING_S = 1.0
_SILENT_S = 4.0
_PROBE_BYTES = 1 << 18
_MOST_ASKED = 1024
_MOST_HELD_NEWS = 10_000
_MOST_PLANE = 1 << 32


class _Pending:
    """One request of the window, from when it is made until it has arrived."""

    def __init__(self, request: PlaneRequest | TableRequest, future: Future[Any]) -> None:
        self.request = request
        self.future = future
        self.assembly: Assembly | None = None

    @property
    def key(self) -> Key:
        """Of the announcement that says that it is there."""
        r = self.request
        return ("ready", r.run, r.layer, r.well, r.field)


class Session:
    """What a viewer and one kernel have between them. Used by one thread, but for the unpacking of planes.

    Parameters
    ----------
    board
        Where announcements are posted.
    send
        Sends a message to the kernel; what cannot be sent now is lost.
    fetchers
        Unpack planes.
    machine
        Of the viewer.
    """

    def __init__(self, board: Board, send: Callable[[Message], None], fetchers: Fetchers, *, machine: str) -> None:
        self._board = board
        self._send = send
        self._fetchers = fetchers
        self._machine = machine
        self._session = 0
        self._epoch = ""
        self._at = 0
        self._asking = False
        self._held: deque[News] = deque(maxlen=_MOST_HELD_NEWS)
        self._welcome: Welcome | None = None
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._waiting: list[tuple[Urgency, int]] = []
        self._ready: set[Key] = set()
        """What the kernel has announced since it started; other requests wait for it."""
        self._early: dict[Key, list[int]] = {}
        self._asked: set[int] = set()
        self._received = 0
        self._granted = 0
        self._rate = LinkRate()
        self._pinged = self._heard = time.monotonic()
        self.runs: set[str] = set()
        """Ids of the runs that the kernel announced."""
        self.malformed = 0
        """Messages that were no messages; they are passed over."""

    @property
    def is_near(self) -> bool:
        """Whether the kernel is on the same machine."""
        return self._welcome is not None and self._welcome.machine == self._machine

    @property
    def is_connected(self) -> bool:
        """Whether the kernel has answered."""
        return self._welcome is not None

    @property
    def number(self) -> int:
        """The session's number, which answers repeat."""
        return self._session

    @property
    def at(self) -> int:
        """Everything up to this number of the kernel's announcements is known."""
        return self._at

    def begin(self) -> None:
        """Greet the kernel, over a connection that has just been made."""
        self._renew()
        self._send(self._hello())

    def lose(self, detail: str = "") -> None:
        """Note that the connection is lost; requests wait for the next one."""
        if self._welcome is not None:
            self._renew()
            self._board.post(LinkChanged(link="lost", detail=detail))

    def request(self, request: PlaneRequest | TableRequest, future: Future[Any]) -> int:
        """Ask for something; returns the request's number, for `withdraw`."""
        number = next(self._numbers)
        self._pending[number] = _Pending(request, future)
        heapq.heappush(self._waiting, (request.urgency, number))
        self._ask()
        return number

    def withdraw(self, number: int) -> None:
        """Take a request back."""
        if self._pending.pop(number, None) is not None and number in self._asked:
            self._asked.discard(number)
            self._send(Drop(ids=(number,)))
            self._ask()

    def tick(self) -> None:
        """Do what time makes due; called about ten times a second."""
        now = time.monotonic()
        if self._session and now - self._pinged >= _PING_S:
            self._pinged = now
            self._send(Ping() if self._welcome is not None else self._hello())
        if self._welcome is not None and now - self._heard > _SILENT_S:
            self.lose("The kernel does not answer.")

    def close(self) -> None:
        """Say goodbye and cancel what waits."""
        if self._welcome is not None:
            self._send(Bye())
        for pending in self._pending.values():
            pending.future.cancel()
        self._pending.clear()

    def handle(self, frames: Sequence[Any]) -> None:
        """Take one message of the kernel; what is no message is passed over."""
        try:
            message, payload = read_from_kernel(frames)
            self._take(message, payload)
        except MalformedError:
            self.malformed += 1

    def overhear(self, frames: Sequence[Any]) -> None:
        """Take an announcement that one of several kernels has made; those of others tell nothing of this one."""
        with suppress(MalformedError):
            message, _ = read_from_kernel(frames)
            if isinstance(message, News) and message.epoch == self._epoch:
                self._take(message, None)

    def _renew(self) -> None:
        """Forget what belongs to a session; the next `Hello` begins another one."""
        self._session = secrets.randbits(62)
        self._welcome = None
        self._asking = False
        self._received = self._granted = 0
        self._heard = self._pinged = time.monotonic()

    def _hello(self) -> Hello:
        return Hello(version=WIRE_VERSION, session=self._session, machine=self._machine)

    def _take(self, message: FromKernel, payload: Any) -> None:
        session = getattr(message, "session", self._session)
        if session != self._session:
            return
        self._heard = time.monotonic()
        match message:
            case Part():
                self._count(memoryview(payload).nbytes)
                self._part(message, payload)
            case Welcome():
                self._begin(message)
            case Said():
                self._hear_page(message)
            case News():
                self._hear(message)
            case Pong():
                self._rate.answered(self._pinged)
                if self._welcome is not None and message.number > self._at and not self._asking:
                    self._catch_up()
            case Probe():
                self._rate.probed(memoryview(payload).nbytes, message.number)
            case Rows():
                self._count(memoryview(payload).nbytes)
                self._rows(message, payload)
            case Refused():
                self._fail(message.id, message.message)
            case Bye():
                self.lose("The kernel has ended.")
            case Knock():
                pass

    def _begin(self, welcome: Welcome) -> None:
        if welcome.version != WIRE_VERSION:
            detail = f"The kernel speaks version {welcome.version} of the wire format, this viewer {WIRE_VERSION}."
            self._board.post(LinkChanged(link="refused", detail=f"{detail} Bring both to the same release."))
            return
        if self._welcome is not None:
            return
        self._welcome = welcome
        if welcome.epoch != self._epoch:
            self._epoch, self._at = welcome.epoch, 0
            self._ready.clear()
        self._board.post(LinkChanged(link="connected", detail=welcome.name))
        self._pinged = time.monotonic()
        self._send(Ping(probe=0 if self.is_near else _PROBE_BYTES))
        self._catch_up()
        self._grant()
        self._asked.clear()
        self._early.clear()
        self._waiting.clear()
        for number, pending in self._pending.items():
            if pending.assembly is not None:
                pending.assembly.is_wanted = False
                pending.assembly = None
            heapq.heappush(self._waiting, (pending.request.urgency, number))
        self._ask()

    def _catch_up(self) -> None:
        self._asking = True
        self._send(Ask(after=self._at))

    def _hear_page(self, page: Said) -> None:
        if page.epoch != self._epoch or not self._asking:
            return
        for told in page.announcements:
            self._post(told)
        self._at = max(self._at, page.number)
        if page.more:
            self._catch_up()
            return
        self._asking = False
        held, self._held = self._held, deque(maxlen=_MOST_HELD_NEWS)
        for news in held:
            self._hear(news)

    def _hear(self, news: News) -> None:
        last = news.number + len(news.announcements) - 1
        if self._welcome is None or news.epoch != self._epoch or last <= self._at:
            return
        if self._asking:
            self._held.append(news)
        elif news.number <= self._at + 1:
            new = news.announcements[self._at + 1 - news.number :]
            self._at = last
            for told in new:
                self._post(told)
        else:
            self._held.append(news)
            self._catch_up()

    def _post(self, told: Told) -> None:
        key = key_of(told)
        if isinstance(told, RunAnnounced):
            self.runs.add(told.view.id)
            self._ready = {other for other in self._ready if other[1] != told.view.id}
        if self._board.latest(key) != told:  # a kernel that has started again tells what is known already
            self._board.post(told)
        if isinstance(told, StackReady | TableReady):
            self._ready.add(key)
            for number in self._early.pop(key, ()):
                if number in self._pending:
                    heapq.heappush(self._waiting, (self._pending[number].request.urgency, number))
            self._ask()

    def _ask(self) -> None:
        while self._waiting and len(self._asked) < _MOST_ASKED and self._welcome is not None:
            _, number = heapq.heappop(self._waiting)
            pending = self._pending.get(number)
            if pending is None:
                continue
            if pending.key in self._ready:
                self._asked.add(number)
                self._send(_want(number, pending.request))
            else:
                self._early.setdefault(pending.key, []).append(number)

    def _count(self, size: int) -> None:
        self._received += size
        self._rate.arrived(size, more=len(self._asked) > 1)
        self._grant()

    def _grant(self) -> None:
        window = self._rate.window(near=self.is_near)
        granted = self._received + window
        if granted - self._granted >= window // 2:
            self._granted = granted
            self._send(Credit(granted=granted, rate=self._rate.value))

    def _forget(self, number: int) -> _Pending | None:
        self._asked.discard(number)
        pending = self._pending.pop(number, None)
        self._ask()
        return pending

    def _fail(self, number: int, message: str) -> None:
        pending = self._forget(number)
        if pending is not None:
            settle(pending.future, error=StreamError(message))

    def _rows(self, message: Rows, payload: Any) -> None:
        import pyarrow as pa

        pending = self._pending.get(message.id)
        if pending is None or not isinstance(pending.request, TableRequest):
            return
        self._forget(message.id)
        try:
            table = pa.ipc.open_file(pa.py_buffer(payload)).read_all()
            table.validate(full=True)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            settle(pending.future, error=StreamError(f"A table arrived damaged: {error}"))
        else:
            settle(pending.future, table)

    def _part(self, part: Part, payload: Any) -> None:
        pending = self._pending.get(part.id)
        if pending is None or not isinstance(pending.request, PlaneRequest):
            return
        try:
            self._check(part, pending.request)
            if part.codec == "raw" and part.rows == part.shape[0]:
                array = mapped(part, payload)
                self._forget(part.id)
                settle(pending.future, Plane(array=array, version=part.version))
                return
            if pending.assembly is None:
                pending.assembly = Assembly(part)
            if not pending.assembly.fits(part):
                raise MalformedError("its parts are of different planes")
        except MalformedError as error:
            self._fail(part.id, f"A plane arrived damaged: {error}.")
            raise
        assembly = pending.assembly
        if part.row in assembly.rows:
            return
        assembly.rows.add(part.row)
        assembly.arrived += part.rows
        if assembly.arrived >= part.shape[0]:
            self._forget(part.id)
        work = self._fetchers.submit(
            lambda: unpack_part(part, payload, assembly, pending.future), pending.request.urgency
        )
        work.add_done_callback(lambda work: report(work, pending.future))

    def _check(self, part: Part, request: PlaneRequest) -> None:
        height, width = part.shape
        if not (0 < part.rows <= height and 0 <= part.row <= height - part.rows and width > 0):
            raise MalformedError(f"rows {part.row} to {part.row + part.rows} of {height}")
        if height * width * plane_dtype(part.dtype).itemsize > _MOST_PLANE:
            raise MalformedError(f"{height} x {width} pixels are too many")
        ready = self._board.stack(request.run, request.layer, request.well, request.field)
        shrink = COARSE if request.coarse else 1
        expected = (-(-ready.size_y // shrink), -(-ready.size_x // shrink))
        if part.version == ready.version and part.shape != expected:
            raise MalformedError(f"{height} x {width} pixels instead of {expected[0]} x {expected[1]}")


def _want(number: int, r: PlaneRequest | TableRequest) -> Want | WantTable:
    if isinstance(r, TableRequest):
        return WantTable(id=number, run=r.run, layer=r.layer, well=r.well, field=r.field, priority=r.priority)
    return Want(
        id=number,
        run=r.run,
        layer=r.layer,
        well=r.well,
        field=r.field,
        t=r.t,
        z=r.z,
        coarse=r.coarse,
        priority=r.priority,
    )
