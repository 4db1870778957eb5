"""The server itself: one thread that answers clients, follows jobs and starts those whose turn it is."""

from __future__ import annotations

import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from types import FrameType, TracebackType
from typing import Self

import zmq

from openhcs_jupyter.errors import OpenHCSError, UsageError
from openhcs_jupyter.repository.omero.address import parse_address
from openhcs_jupyter.repository.omero.sessions import SessionEndedError
from openhcs_jupyter.server import accounts, identity, omero
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.accounts import Account
from openhcs_jupyter.server.desk import VERSION, Desk, RefusedError
from openhcs_jupyter.server.errands import BusyError, Errands
from openhcs_jupyter.server.folders import Folders
from openhcs_jupyter.server.front_door import FrontDoor
from openhcs_jupyter.server.identity import Clients, Identity
from openhcs_jupyter.server.jobs import Jobs
from openhcs_jupyter.server.logins import Logins
from openhcs_jupyter.server.metrics import serve_metrics
from openhcs_jupyter.server.omero import Seen
from openhcs_jupyter.server.queue import Queue
from openhcs_jupyter.server.retention import Retention
from openhcs_jupyter.server.seats import Seats
from openhcs_jupyter.server.settings import ServerSettings
from openhcs_jupyter.server.watching import Pace
from openhcs_jupyter.streaming.keys import write_private
from openhcs_jupyter.streaming.sockets import Waker
from openhcs_jupyter.topology import discover

_BUSY_MS, _CALM_MS, _IDLE_MS = 20, 250, 500
_AT_ONCE = 5
"""So many times in a row journals are read as soon as they grow; more often than every 20 ms they are not."""
_ASK_S = 2.0


class Server:
    """One execution server; a context manager.

    Parameters
    ----------
    settings
        How it is set up.
    say
        Takes lines for the log.

    Raises
    ------
    UsageError
        If it cannot be set up so.
    """

    def __init__(self, settings: ServerSettings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._stack = ExitStack()
        self._accounts = {owner: accounts.account(name) for owner, name in settings.accounts.items()}
        accounts.check_starter(self._accounts)
        self._own = accounts.own_account()
        self._owner = settings.owner or self._own.name
        if settings.is_omero and not self._accounts:
            self._owner = settings.owner or parse_address(settings.repository).user
            if not self._owner:
                raise UsageError(
                    f"{settings.repository} names no user, and there is no account map.",
                    "A server without one serves one owner: omero://USER@HOST.",
                )
        self._stopping = False
        self._parks = False
        self._asked = 0.0
        self._promised: list[tuple[bytes, p.AnyReply | None]] = []
        """Replies that wait for the disk."""
        self._trouble = ""
        """What kept jobs from being looked at the last time."""
        with ExitStack() as stack:
            self._folders = Folders(settings.folder, several=bool(self._accounts))
            stack.callback(self._folders.close)
            self._queue = Queue(self._folders.queue)
            stack.callback(self._queue.close)
            self._seats = Seats(self._folders, settings.limits, warm=settings.warm, several=bool(self._accounts))
            stack.callback(self._seats.close)
            self._topology = discover()
            self._waker = Waker()
            stack.callback(self._waker.close)
            self._errands = Errands(self._waker.wake)
            stack.callback(self._errands.close)
            self._logins: Logins | None = None
            if settings.is_omero:
                self._logins = Logins(self._folders.path / "logins", settings.repository, self._errands)
            self._jobs = Jobs(
                settings, self._queue, self._folders, self._seats, self._topology, self.account_of, self._logins
            )
            stack.callback(self._jobs.watch.close)
            self._retention = Retention(settings, self._queue, self._folders, self.account_of)
            self._clients = Clients()
            self._desk = Desk(
                settings,
                self._queue,
                self._jobs,
                self._folders,
                self._clients,
                self._topology,
                self.account_of,
                self._retention,
            )
            self.door = FrontDoor(settings.bind, self._folders.keys())
            stack.callback(self.door.close)
            write_private(self._folders.address, self.door.invitation)
            if not self._folders.token.exists():
                # Of who runs the server: its one owner, or its administrator.
                mine = self._own.name if self._accounts or settings.is_omero else self._owner
                identity.new_token(self._queue, mine, self._folders.token)
            self._told: p.ServerIs | None = None
            if settings.metrics:
                # Looked up by the server's thread, which alone may use the queue.
                self._told = told = self._as_administrator()
                stack.callback(serve_metrics(settings.metrics, lambda: self._told or told))
            self._stack = stack.pop_all()

    def _as_administrator(self) -> p.ServerIs:
        return self._desk.server(0, Identity(owner=self._own.name, administrator=True))

    @property
    def folders(self) -> Folders:
        """Where its things lie."""
        return self._folders

    def account_of(self, owner: str) -> Account:
        """Return the account under which an owner's jobs run.

        Raises
        ------
        UsageError
            If the server does not serve this owner.
        """
        if self._accounts:
            if owner not in self._accounts:
                raise UsageError(f"The account map of this server does not name {owner}.", "Ask its administrator.")
            return self._accounts[owner]
        if owner != self._owner:
            raise UsageError(
                f"This server serves {self._owner} only, as it has no account map; you are {owner}.",
                "Ask its administrator for one, or start a server of your own.",
            )
        return self._own

    def run(self) -> None:
        """Serve until the process is asked to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        poller = zmq.Poller()
        for socket in (self.door.requests, self.door.news, self._waker):
            poller.register(socket, zmq.POLLIN)
        watch, pace = self._jobs.watch, Pace(_BUSY_MS / 1000, _AT_ONCE)
        self._jobs.take_up()
        self._seats.open()
        if not self._accounts:
            self._jobs.expect(self._owner)
        while not (self._stopping and not self._jobs.active):
            may_wake = pace.allows()
            poller.register(watch, zmq.POLLIN if may_wake else 0)
            ready = dict(poller.poll(self._pause_ms(may_wake)))
            if watch.fileno() in ready:
                pace.spend()
                watch.clear()
            if self._waker.fileno() in ready:
                self._waker.clear()
                self._take_errands()
                self._announce()
            if self.door.news in ready:
                self.door.admit(self._clients.is_ticket)
            if self.door.requests in ready:
                self._answer()
            self._work()
        self._jobs.shows.close()

    def _pause_ms(self, may_wake: bool) -> int:
        """Return how long nothing needs to be looked at, if nothing wakes the server."""
        if not self._jobs.active:
            return _IDLE_MS
        return _CALM_MS if may_wake and self._jobs.watch.sees_all else _BUSY_MS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _take_errands(self) -> None:
        try:
            self._errands.take()
        except Exception as error:  # noqa: BLE001 - what one client asked must not end the server
            self._say("".join(traceback.format_exception(error)))

    def _work(self) -> None:
        try:
            try:
                if self._parks:
                    self._parks = False
                    self._jobs.park_all()
                self._jobs.look()
                self._retention.sweep()
            finally:
                self._settle()
            self._trouble = ""
        except Exception as error:  # noqa: BLE001 - what one job does must not end the server
            # A full disk, for example: what could not be noted has not happened, and is tried again.
            told = isinstance(error, OSError | sqlite3.Error | OpenHCSError)
            trouble = f"{type(error).__name__}: {error}" if told else "".join(traceback.format_exception(error))
            if trouble != self._trouble:
                self._say(trouble)
            self._trouble = trouble
            time.sleep(_BUSY_MS / 1000)
        if self._told is not None:
            self._told = self._as_administrator()
        if self._logins is not None:
            self._ask_again(self._logins)
        self._announce()

    def _answer(self) -> None:
        for peer, key, frames in self.door.read():
            reply = self._reply(peer, key, frames)
            if self._queue.is_settled:
                self._say_to(peer, reply)
            else:
                self._promised.append((peer, reply))

    def _settle(self) -> None:
        """Bring changes to the disk, and give the replies that promise them; meanwhile the jobs have begun."""
        promised, self._promised = self._promised, []
        self._queue.settle()
        for peer, reply in promised:
            self._say_to(peer, reply)

    def _say_to(self, peer: bytes, reply: p.AnyReply | None) -> None:
        if reply is not None:
            self.door.reply(peer, p.encode(reply))

    def _reply(self, peer: bytes, key: str, frames: list[zmq.Frame]) -> p.AnyReply | None:
        try:
            request = p.read_request(frames)
        except p.MalformedRequestError as error:
            # Who cannot be answered by a number is not answered.
            if error.request is None:
                return None
            return p.Refused(id=error.request, kind="malformed", message=str(error))
        try:
            return self._done(request, peer, key)
        except RefusedError as error:
            return p.Refused(id=request.id, kind=error.kind, message=error.message, hint=error.hint)
        except UsageError as error:
            return p.Refused(id=request.id, kind="identity", message=error.message, hint=error.hint or "")
        except (OSError, sqlite3.Error) as error:
            self._say(f"{type(error).__name__}: {error}")
            return p.Refused(id=request.id, kind="busy", message=f"The server cannot do it now: {error}.")
        except Exception as error:  # noqa: BLE001 - one request must not end the server
            self._say("".join(traceback.format_exception(error)))
            return p.Refused(id=request.id, kind="internal", message="The server failed at this; its log says why.")

    def _done(self, request: p.AnyRequest, peer: bytes, key: str) -> p.AnyReply | None:
        if isinstance(request, p.Hello):
            return self._hello(request, peer, key)
        who = self._clients.get(key)
        if isinstance(request, p.Ping):
            return p.Pong(id=request.id, time=time.time(), known=who is not None)
        if who is None:
            raise RefusedError("identity", "Say first who you are.", "Connect again.")
        return self._desk.answer(request, who)

    def _hello(self, hello: p.Hello, peer: bytes, key: str) -> p.AnyReply | None:
        if hello.version != p.PROTOCOL_VERSION:
            raise RefusedError(
                "version",
                f"The server speaks version {p.PROTOCOL_VERSION}, the client version {hello.version}.",
                f"Install openhcs-jupyter {VERSION} on both sides.",
            )
        if hello.token:
            owner = identity.owner_of(self._queue, hello.token)
            if owner is None:
                raise RefusedError("identity", "The token is not one of this server.", "Enrol again.")
            if owner != self._own.name or not (self._accounts or self._settings.is_omero):
                self.account_of(owner)
                if self._settings.is_omero:
                    raise RefusedError("identity", "This server knows its users by their sessions with OMERO.")
            return self._welcome(hello.id, key, Identity(owner=owner, administrator=self._is_administrator(owner)))
        if self._logins is None:
            raise RefusedError(
                "identity", "This server knows its users by tokens.", "Enrol: openhcs-jupyter server add."
            )
        self._ask_omero(self._logins, hello, peer, key)
        return None

    def _ask_omero(self, logins: Logins, hello: p.Hello, peer: bytes, key: str) -> None:
        """Find out who says hello; the answer follows."""
        if not hello.session:
            raise RefusedError(
                "identity", "This server knows its users by their sessions with OMERO.", "Connect there."
            )

        def told(found: Seen | Exception) -> None:
            if isinstance(found, Exception):
                self._say_to(peer, _refusal(hello.id, found))
                return
            try:
                self.account_of(found.user)
                self._jobs.logged_in(found.user)
            except (UsageError, OSError, sqlite3.Error) as error:
                self._say_to(peer, _refusal(hello.id, error))
                return
            who = Identity(
                owner=found.user,
                administrator=found.administrator or self._is_administrator(found.user),
                session=hello.session,
                checked=time.monotonic(),
            )
            self._say_to(peer, self._welcome(hello.id, key, who))

        try:
            logins.take(hello.session, told)
        except BusyError:
            raise RefusedError("busy", "Too many are coming in at once.", "Try again in a moment.") from None

    def _ask_again(self, logins: Logins) -> None:
        """Ask OMERO again about the sessions by which clients came."""
        if time.monotonic() - self._asked < _ASK_S:
            return
        self._asked = time.monotonic()

        def told(session: str, found: Seen | Exception) -> None:
            if isinstance(found, SessionEndedError):
                self._clients.forget(session)
            elif not isinstance(found, Exception):
                administrator = found.administrator or self._is_administrator(found.user)
                self._clients.confirm(session, administrator=administrator)

        for session in self._clients.due(self._settings.recheck_s):
            with suppress(BusyError):
                self._errands.send(partial(omero.examine, logins.address(""), session), partial(told, session))
        here = self._clients.owners()
        logins.keep_alive(lambda owner: owner in here or bool(self._queue.unended(owner=owner)))

    def _serves(self, owner: str) -> bool:
        return owner in self._accounts if self._accounts else owner == self._owner

    def _is_administrator(self, owner: str) -> bool:
        """Tell whether somebody is an administrator: the server's own account, where it serves others, is one."""
        runs_it = owner == self._own.name and bool(self._accounts or self._settings.is_omero)
        return runs_it or owner in self._settings.administrators

    def _welcome(self, number: int, key: str, who: Identity) -> p.Welcome:
        self._clients.add(key, who)
        if self._serves(who.owner):
            self._jobs.expect(who.owner)
        return p.Welcome(
            id=number,
            version=p.PROTOCOL_VERSION,
            server_version=VERSION,
            name=self._desk.name,
            owner=who.owner,
            administrator=who.administrator,
            repository=self._jobs.repository(who.owner),
            news_port=self.door.news_port,
            ticket=self._clients.ticket(who.owner),
        )

    def _announce(self) -> None:
        for record, events in self._queue.take_told():
            ticket = self._clients.ticket(record.owner)
            for first in range(0, len(events), p.MOST_EVENTS):
                part = tuple(events[first : first + p.MOST_EVENTS])
                data = p.encode(p.News(job=record.id, state=record.state, events=part))
                if len(data) <= p.MOST_REPLY_BYTES:  # else they are missed, and asked for
                    self.door.announce(ticket, data)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._parks = self._settings.park_on_stop or self._stopping  # asked twice, it waits for nobody
        self._stopping = self._desk.stopping = self._jobs.holds = True
        self._say("Stopping.")


def _refusal(number: int, error: Exception) -> p.Refused:
    """Say why somebody is not let in."""
    if isinstance(error, SessionEndedError | UsageError):
        return p.Refused(id=number, kind="identity", message=error.message, hint=error.hint or "")
    if isinstance(error, OSError | sqlite3.Error):
        return p.Refused(id=number, kind="busy", message=f"The server cannot do it now: {error}.")
    return p.Refused(id=number, kind="busy", message=f"OMERO cannot be asked: {error}")


def serve(settings: ServerSettings) -> None:
    """Serve until the process is asked to stop; says on standard output how clients come.

    Raises
    ------
    UsageError
        If the server cannot be set up so.
    """

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    with Server(settings, say) as server:
        say(f"Execution server {VERSION} for {settings.repository}.")
        say(f"Listening: {server.door.invitation.line()}")
        say(f"Its files: {server.folders.path}")
        server.run()
    say("Stopped.")
