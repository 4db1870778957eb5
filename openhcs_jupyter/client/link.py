"""The connection to an execution server: asks and asks again, follows jobs, comes back after cuts and restarts."""

from __future__ import annotations

import atexit
import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import zmq

from openhcs_jupyter.errors import ServerError
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.model import ENDED, JobEvent, JobState
from openhcs_jupyter.streaming.frames import MalformedError
from openhcs_jupyter.streaming.keys import Endpoint, new_keys
from openhcs_jupyter.streaming.sockets import Monitor, Waker, join_curve, prepare

PATIENCE_S = 60.0
FIRST_PATIENCE_S = 10.0
"""How long an answer is waited for: of a server that has answered before, and of one that has not."""
_AGAIN_S = 3.0
"""A request that is not answered by then is sent again; all of them may come twice."""
_BUSY_S = 0.5
_LOOK_S = 5.0
"""How often it is looked whether announcements were missed, or the server was started anew."""
_MOST_TURNED_AWAY = 2
_TICK_MS = 100
_IDLE_MS = 1000

R = TypeVar("R", bound=p.Reply)
Take = Callable[[JobState, int, tuple[JobEvent, ...]], None]
"""Is told what happens to a job: its state, the number of its latest event, and its events in order, each once."""
Identify = Callable[[], Mapping[str, str]]


class _Asked:
    """One request, until it is answered."""

    def __init__(self, request: p.Request, patience_s: float | None) -> None:
        self.request = request
        self.data = p.encode(request)
        self.future: Future[Any] = Future()
        self.due = 0.0
        self.turned_away = 0
        """How often the server did not know who asks."""
        self.end = None if patience_s is None else time.monotonic() + patience_s


class _Followed:
    """One job that is followed."""

    def __init__(self, job: str, after: int, take: Take) -> None:
        self.job = job
        self.at = after
        """Events up to this number are taken."""
        self.take = take
        self.asking = False
        self.ended = False
        self.looked = 0.0


class Link:
    """Speaks with one server, in a thread of its own. Its methods may be called from any thread.

    Parameters
    ----------
    host, port
        Of the server.
    key
        Its public key.
    identify
        Tells who the user is, whenever the server asks.
    name
        The user's name for the server.
    """

    def __init__(self, host: str, port: int, key: str, identify: Identify, name: str = "") -> None:
        self._host, self._port, self._key = host, port, key
        self._identify = identify
        self.name = name or f"{host}:{port}"
        self._keys = new_keys()
        self._numbers = itertools.count(1)
        self._new: deque[_Asked] = deque()
        self._pending: dict[int, _Asked] = {}
        self._followed: list[_Followed] = []
        self._welcome: p.Welcome | None = None
        self._was_welcome = threading.Event()
        self._greeted = 0
        """Number of the `Hello` that is under way."""
        self._greet_due = 0.0
        self._looked = 0.0
        self._endpoint = ""
        self._topic = b""
        """Where and what is subscribed to."""
        self._fault: ServerError | None = None
        self._waker = Waker()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"openhcs-link-{self.name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def welcome(self) -> p.Welcome | None:
        """What the server said last to the greeting; None while the connection is cut."""
        return self._welcome

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return not self._end.is_set()

    def ask(self, kind: type[p.Request], reply: type[R], *, patience_s: float | None = None, **values: object) -> R:
        """Ask something and wait for the answer.

        Parameters
        ----------
        kind
            Of request.
        reply
            The kind of answer.
        patience_s
            How long it is waited for; left out, as long as suits.
        **values
            Of the request.

        Raises
        ------
        ServerError
            If the server refuses, or does not answer.
        """
        answer = self.begin(kind, patience_s=patience_s, **values).result()
        assert isinstance(answer, reply)
        return answer

    def begin(self, kind: type[p.Request], *, patience_s: float | None = None, **values: object) -> Future[Any]:
        """Ask something; returns at once."""
        if patience_s is None:
            patience_s = PATIENCE_S if self._was_welcome.is_set() else FIRST_PATIENCE_S
        asked = _Asked(kind(id=next(self._numbers), **values), patience_s)
        if self._end.is_set():
            asked.future.set_exception(ServerError(f"The connection to {self.name} is closed."))
            return asked.future
        self._new.append(asked)
        self._waker.wake()
        return asked.future

    def follow(self, job: str, take: Take, after: int = 0) -> Callable[[], None]:
        """Tell what happens to a job, in the link's thread; returns what ends that.

        Parameters
        ----------
        job
            Its id.
        take
            Is told.
        after
            Events up to this number are passed over.
        """
        followed = _Followed(job, after, take)
        self._followed = [*self._followed, followed]
        self._waker.wake()

        def leave() -> None:
            self._followed = [one for one in self._followed if one is not followed]

        return leave

    def close(self) -> None:
        """End the connection; what was asked and not answered fails."""
        if self._end.is_set():
            return
        self._end.set()
        self._waker.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self.close)

    # In the link's thread.

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._requests = context.socket(zmq.DEALER)
        self._news = context.socket(zmq.SUB)
        monitor = Monitor(self._requests)
        try:
            for own in (self._requests, self._news):
                prepare(own, most_bytes=p.MOST_REPLY_BYTES)
                join_curve(own, self._keys, self._key)
            self._requests.connect(Endpoint(control=f"tcp://{self._host}:{self._port}", news="").control)
            poller = zmq.Poller()
            for source in (self._requests, self._news, monitor.events, self._waker):
                poller.register(source, zmq.POLLIN)
            while not self._end.is_set():
                ready = dict(poller.poll(_TICK_MS if self._pending or self._welcome is None else _IDLE_MS))
                self._waker.clear()
                if monitor.events in ready:
                    for event in monitor.read():
                        self._changed(event)
                while self._new:
                    self._put(self._new.popleft())
                self._read()
                self._work(time.monotonic())
        finally:
            for asked in [*self._pending.values(), *self._new]:
                asked.future.set_exception(ServerError(f"The connection to {self.name} was closed."))
            monitor.close()
            self._requests.close(linger=0)
            self._news.close(linger=0)
            context.term()
            self._waker.close()

    def _changed(self, event: str) -> None:
        if event == "lost":
            self._forget()
        elif event == "connected":
            self._greet_due = 0.0
            self._forget()

    def _forget(self) -> None:
        """Note that the server does not know this connection, or no longer."""
        self._welcome = None
        self._greeted = 0

    def _put(self, asked: _Asked) -> None:
        self._pending[asked.request.id] = asked

    def _read(self) -> None:
        for own, take in ((self._requests, self._answered), (self._news, self._announced)):
            while True:
                try:
                    frames = own.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                with suppress(MalformedError):
                    take([frame.buffer for frame in frames])

    def _work(self, now: float) -> None:
        if self._welcome is None:
            if now >= self._greet_due and (self._pending or self._followed):
                self._greet(now)
        else:
            if now - self._looked > _LOOK_S:
                self._looked = now
                self._send(p.Ping(id=next(self._numbers)))
            for asked in self._pending.values():
                if now >= asked.due:
                    asked.due = now + _AGAIN_S
                    self._send(asked.request, asked.data)
            for followed in self._followed:
                if not followed.ended and now - followed.looked > _LOOK_S:
                    self._catch_up(followed)
        for number, asked in list(self._pending.items()):
            if asked.end is not None and now > asked.end:
                del self._pending[number]
                asked.future.set_exception(self._fault or self._silent())

    def _greet(self, now: float) -> None:
        self._greet_due = now + _AGAIN_S
        try:
            said = self._identify()
        except Exception as error:  # noqa: BLE001 - whatever keeps the user from saying who it is
            self._fail(ServerError(f"{self.name} cannot be told who you are: {error}"))
            return
        self._greeted = next(self._numbers)
        self._send(p.Hello(id=self._greeted, version=p.PROTOCOL_VERSION, **said))

    def _answered(self, frames: list[Any]) -> None:
        reply = p.read_reply(frames)
        if reply.id == self._greeted and isinstance(reply, p.Welcome | p.Refused):
            self._greeting_answered(reply)
            return
        if isinstance(reply, p.Pong):
            if not reply.known:
                self._forget()
                self._greet_due = 0.0
            if reply.id not in self._pending:
                return
        asked = self._pending.get(reply.id)
        if asked is None:
            return
        if isinstance(reply, p.Refused):
            if reply.kind == "identity" and asked.turned_away < _MOST_TURNED_AWAY:
                # The server was started anew: it is told again who asks, then asked again.
                asked.turned_away += 1
                asked.due = 0.0
                if self._welcome is not None:
                    self._forget()
                    self._greet_due = 0.0
                return
            if reply.kind == "busy":
                asked.due = time.monotonic() + _BUSY_S
                self._fault = _refused(self.name, reply)
                return
        del self._pending[reply.id]
        self._fault = None
        if isinstance(reply, p.Refused):
            asked.future.set_exception(_refused(self.name, reply))
        else:
            asked.future.set_result(reply)

    def _greeting_answered(self, reply: p.Welcome | p.Refused) -> None:
        if isinstance(reply, p.Refused):
            if reply.kind != "busy":
                self._fail(_refused(self.name, reply))
            return
        self._fault = None
        self._welcome = reply
        self._was_welcome.set()
        self._subscribe(reply)
        self._looked = time.monotonic()
        for asked in self._pending.values():
            asked.due = 0.0
        for followed in self._followed:
            followed.looked = 0.0
            followed.asking = followed.ended = False

    def _subscribe(self, welcome: p.Welcome) -> None:
        """Listen to the owner's announcements; topic and port change when the server is started anew."""
        endpoint = f"tcp://{self._host}:{welcome.news_port}"
        if endpoint != self._endpoint:
            if self._endpoint:
                self._news.disconnect(self._endpoint)
            self._news.connect(endpoint)
            self._endpoint = endpoint
        if welcome.ticket != self._topic:
            if self._topic:
                self._news.unsubscribe(self._topic)
            self._news.subscribe(welcome.ticket)
            self._topic = welcome.ticket

    def _announced(self, frames: list[Any]) -> None:
        news = p.read_news(frames)
        for followed in self._followed:
            if followed.job == news.job:
                latest = news.events[-1].number if news.events else followed.at
                self._take(followed, news.state, latest, news.events)

    def _catch_up(self, followed: _Followed) -> None:
        if followed.asking:
            return
        followed.asking = True
        followed.looked = time.monotonic()
        asked = _Asked(p.GetEvents(id=next(self._numbers), job=followed.job, after=followed.at), None)

        def told(future: Future[Any]) -> None:
            followed.asking = False
            if future.exception() is not None:
                return
            reply = future.result()
            assert isinstance(reply, p.EventsAre)
            self._take(followed, reply.state, reply.latest, reply.events)
            if reply.latest > followed.at:
                self._catch_up(followed)

        asked.future.add_done_callback(told)
        self._put(asked)

    def _take(self, followed: _Followed, state: JobState, latest: int, events: tuple[JobEvent, ...]) -> None:
        fresh = tuple(event for event in events if event.number > followed.at)
        if fresh and fresh[0].number != followed.at + 1:
            self._catch_up(followed)
            return
        if fresh:
            followed.at = fresh[-1].number
        followed.ended = state in ENDED and followed.at >= latest
        followed.looked = time.monotonic()
        followed.take(state, latest, fresh)

    def _send(self, request: p.Request, data: bytes | None = None) -> None:
        with suppress(zmq.Again):
            self._requests.send(data or p.encode(request), zmq.NOBLOCK)

    def _fail(self, error: ServerError) -> None:
        """Let everything fail that waits, since the server does not let the user in."""
        self._fault = error
        for number, asked in list(self._pending.items()):
            if asked.end is not None:
                del self._pending[number]
                asked.future.set_exception(error)

    def _silent(self) -> ServerError:
        where = f"{self._host}:{self._port}"
        try:
            socket.create_connection((self._host, self._port), timeout=1).close()
        except OSError as error:
            return ServerError(
                f"The execution server {self.name} cannot be reached at {where}: {error.strerror or error}.",
                "Is it running there, does the firewall let you through, does a tunnel stand?",
            )
        if self._was_welcome.is_set():
            return ServerError(f"The execution server {self.name} at {where} does not answer.", "Try again later.")
        return ServerError(
            f"What answers at {where} does not have the key that the profile {self.name} names, or is busy.",
            "If the server has a new key: openhcs-jupyter server add, with the line that it prints now.",
        )


def _refused(name: str, reply: p.Refused) -> ServerError:
    return ServerError(f"{name}: {reply.message}", reply.hint or None, kind=reply.kind)
