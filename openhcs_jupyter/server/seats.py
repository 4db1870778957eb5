"""Processes for jobs: forked under their owners' accounts, kept ready, and handed a job with its lock."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.server import accounts
from openhcs_jupyter.server.accounts import Account
from openhcs_jupyter.server.folders import Folders
from openhcs_jupyter.server.nursery import Order
from openhcs_jupyter.server.processes import SEAT, ProcessId, process_id, send
from openhcs_jupyter.server.settings import Limits

_encode = msgspec.msgpack.Encoder().encode
_PROGRAM = "import gc; gc.disable(); from openhcs_jupyter.server.nursery import main; main()"
"""Looking for garbage would take a tenth of the time of importing, which leaves hardly any."""
_IDLE_S = 900.0
_PATIENCE_S = 30.0


class Nursery:
    """The process from which those of jobs are forked; started when the first is wanted.

    Parameters
    ----------
    folders
        Of the server, with whose mark that of the process begins.
    several
        There are several accounts, and what is forked learns nothing of the server's own.
    """

    def __init__(self, folders: Folders, *, several: bool) -> None:
        self._folders = folders
        self._several = several
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> socket.socket:
        """Start the process if it does not run; it imports in the background."""
        if self._control is not None:
            return self._control
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_PATIENCE_S)
        environment = accounts.common_environment() if self._several else dict(os.environ)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own code
                [sys.executable, *(["-s"] if self._several else []), "-c", _PROGRAM],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment | {SEAT: self._folders.new_mark()},
                cwd="/",
                start_new_session=True,
            )
        self._control = ours
        return ours

    def fork(self, order: Order, end: socket.socket) -> ProcessId:
        """Fork a process.

        Parameters
        ----------
        order
            What it is to be.
        end
            The socket by which it gets its job.

        Raises
        ------
        OSError
            If it cannot be.
        """
        message = _encode(order)
        for last in (False, True):
            try:
                control = self.start()
                socket.send_fds(control, [message], [end.fileno()])
                answer = control.recv(8)
                found = process_id(int.from_bytes(answer)) if answer else None
                if found is not None:
                    return found
                raise ConnectionError("the process that forks others has ended")
            except OSError:
                self.close()  # it was killed, perhaps; another one can be started
                if last:
                    raise
        raise AssertionError

    def close(self) -> None:
        """End the process; those that were forked from it go on."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Seat:
    """One process that waits for a job.

    Parameters
    ----------
    nursery
        Forks it.
    account
        Under which it runs.
    limits
        Bounds of it and all that it starts.
    mark
        Stands in its environment.
    session
        Where it keeps the key of its session with OMERO.
    ahead
        There is no job for it yet.
    shows
        It shows a job's run in viewers.
    """

    def __init__(
        self, nursery: Nursery, account: Account, limits: Limits, mark: str, session: Path, *, ahead: bool, shows: bool
    ) -> None:
        self.mark = mark
        self.since = time.monotonic()
        self._socket, theirs = socket.socketpair()
        order = Order(account=account, limits=limits, mark=mark, session=str(session), ahead=ahead, shows=shows)
        with theirs:
            try:
                self._process = nursery.fork(order, theirs)
            except OSError as error:
                self._socket.close()
                raise OpenHCSError(f"No process can be started for {account.name}: {error}.") from error

    @property
    def id(self) -> ProcessId | None:
        """The process; None if it has ended."""
        return self._process if process_id(self._process.pid) == self._process else None

    def give(self, folder: Path, *lock: int) -> None:
        """Hand it a job's folder and, if it is to do the job, the lock of the job, which it then holds."""
        with suppress(OSError):  # if it has ended, that is seen
            socket.send_fds(self._socket, [os.fsencode(folder)], lock)
        self._socket.close()

    def end(self) -> None:
        """Let the process, which has no job, end."""
        self._socket.close()
        send(self._process, signal.SIGKILL)


class Seats:
    """Processes that are ready, at most one for each owner.

    Parameters
    ----------
    folders
        Of the server, with whose mark those of its processes begin.
    limits
        Of every job.
    warm
        Keep processes ready.
    several
        There are several accounts.
    """

    def __init__(self, folders: Folders, limits: Limits, *, warm: bool, several: bool) -> None:
        self._folders = folders
        self._nursery = Nursery(folders, several=several)
        self._limits = limits
        self._warm = warm
        self._ready: dict[str, Seat] = {}

    def open(self) -> None:
        """Start the process from which all others are forked, unless none is kept ready."""
        if self._warm:
            self._nursery.start()

    def prepare(self, owner: str, account: Account) -> None:
        """Have a process get ready for an owner's next job, for whom none is."""
        self._ready[owner] = self._new(account, ahead=True)

    def is_ready(self, owner: str) -> bool:
        """Tell whether a process waits for an owner's next job."""
        seat = self._ready.get(owner)
        return not self._warm or (seat is not None and seat.id is not None)

    def take(self, owner: str, account: Account) -> Seat:
        """Return a process for a job: the one that is ready, else a new one."""
        seat = self._ready.pop(owner, None)
        return seat if seat is not None and seat.id is not None else self._new(account, ahead=False)

    def take_to_show(self, account: Account) -> Seat:
        """Return a process that shows a job's run in viewers."""
        return self._new(account, ahead=False, shows=True)

    def sweep(self) -> None:
        """End those that nobody needed for long."""
        now = time.monotonic()
        for owner, seat in list(self._ready.items()):
            if now - seat.since > _IDLE_S or seat.id is None:
                del self._ready[owner]
                seat.end()

    def close(self) -> None:
        """End all that are ready."""
        for seat in self._ready.values():
            seat.end()
        self._ready.clear()
        self._nursery.close()

    def _new(self, account: Account, *, ahead: bool, shows: bool = False) -> Seat:
        mark = self._folders.new_mark()
        session = self._folders.session(mark)
        seat = Seat(self._nursery, account, self._limits, mark, session, ahead=ahead, shows=shows)
        if not self._warm:
            self._nursery.close()
        return seat
