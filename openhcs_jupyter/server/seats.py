"""Processes for jobs: started under their owners' accounts, kept ready, and handed a job with its lock."""

from __future__ import annotations

import os
import secrets
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
from openhcs_jupyter.server.orders import KEY_FILE
from openhcs_jupyter.server.processes import SEAT, ProcessId, process_id
from openhcs_jupyter.server.settings import Limits

_MODULE = "openhcs_jupyter.server.job"
_IDLE_S = 900.0


class Seat:
    """One process that waits for a job.

    Parameters
    ----------
    account
        Under which it runs.
    limits
        Bounds of it and all that it starts.
    mark
        Stands in its environment.
    session
        Where it keeps the key of its session with OMERO.
    """

    def __init__(self, account: Account, limits: Limits, mark: str, session: Path) -> None:
        self.mark = mark
        ours, theirs = socket.socketpair()
        words = [sys.executable, "-m", _MODULE, msgspec.json.encode(limits).decode()]
        environment = accounts.environment(account) | {
            SEAT: mark,
            KEY_FILE: str(session),
            "OPENHCS_SCHEDULER": "",
        }
        with theirs:
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own code
                    accounts.command(account, words),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise OpenHCSError(f"No process can be started for {account.name}: {error.strerror}.") from error
        self._socket = ours
        self.since = time.monotonic()

    @property
    def id(self) -> ProcessId | None:
        """The process; None if it has ended."""
        return process_id(self.process.pid) if self.process.poll() is None else None

    def give(self, folder: Path, lock: int) -> None:
        """Hand it a job's folder and the lock of the job, which it then holds."""
        with suppress(OSError):  # if it has ended, that is seen by the lock
            socket.send_fds(self._socket, [os.fsencode(folder)], [lock])
        self._socket.close()

    def end(self) -> None:
        """Let the process, which has no job, end."""
        self._socket.close()
        try:
            self.process.wait(0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


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
    """

    def __init__(self, folders: Folders, limits: Limits, *, warm: bool) -> None:
        self._folders = folders
        self._limits = limits
        self._warm = warm
        self._ready: dict[str, Seat] = {}

    def prepare(self, owner: str, account: Account) -> None:
        """Have a process get ready for an owner's next job, for whom none is."""
        self._ready[owner] = self._new(account)

    def is_ready(self, owner: str) -> bool:
        """Tell whether a process waits for an owner's next job."""
        seat = self._ready.get(owner)
        return not self._warm or (seat is not None and seat.id is not None)

    def take(self, owner: str, account: Account) -> Seat:
        """Return a process for a job: the one that is ready, else a new one."""
        seat = self._ready.pop(owner, None)
        return seat if seat is not None and seat.id is not None else self._new(account)

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

    def _new(self, account: Account) -> Seat:
        mark = f"{self._folders.mark()}.{secrets.token_hex(8)}"
        return Seat(account, self._limits, mark, self._folders.session(mark))
