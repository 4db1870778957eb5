"""The server's own session with OMERO for each owner, from which jobs make theirs; lives as long as it is needed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import OpenHCSError, RepositoryError
from openhcs_jupyter.repository.omero.address import Address
from openhcs_jupyter.repository.omero.sessions import SessionEndedError
from openhcs_jupyter.server import omero
from openhcs_jupyter.server.errands import BusyError, Errands
from openhcs_jupyter.server.omero import Seen
from openhcs_jupyter.streaming.keys import read_private, write_private

_KEPT = 3
"""How often a session is used within the time after which an unused one ends."""


class _Login(msgspec.Struct, frozen=True, kw_only=True):
    """One owner's session of the server's own."""

    owner: str
    key: str
    idle_s: float


class Logins:
    """Sessions by owner; kept in files that only the server's account can read. Used by one thread.

    Parameters
    ----------
    folder
        Of the files.
    uri
        Of the OMERO server.
    errands
        Ask OMERO.
    """

    def __init__(self, folder: Path, uri: str, errands: Errands) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._uri = uri
        self._errands = errands
        self._held: dict[str, _Login] = {}
        self._used: dict[str, float] = {}
        for path in folder.glob("*.json"):
            with suppress(OpenHCSError):
                login = read_private(path, _Login)
                self._held[login.owner] = login

    def address(self, owner: str) -> Address:
        """Return where an owner is let in."""
        return omero.address_for(self._uri, owner)

    def key(self, owner: str) -> str:
        """Return the key of the server's session for an owner; empty if there is none."""
        login = self._held.get(owner)
        return login.key if login is not None else ""

    def take(self, key: str, then: Callable[[Seen | Exception], None]) -> None:
        """Find out whose a session is, make one of the server's own from it, and tell.

        Raises
        ------
        BusyError
            If OMERO is being asked too much.
        """

        def look() -> tuple[str, Seen]:
            seen = omero.examine(self.address(""), key)
            held = self._held.get(seen.user)
            if held is not None:
                with suppress(SessionEndedError):
                    omero.examine(self.address(seen.user), held.key)
                    return held.key, seen
            return omero.derive(self.address(seen.user), key)

        def looked(found: tuple[str, Seen] | Exception) -> None:
            if isinstance(found, Exception):
                then(found)
                return
            own, seen = found
            try:
                self._keep(_Login(owner=seen.user, key=own, idle_s=seen.idle_s))
            except OSError as error:
                then(error)
                return
            then(seen)

        self._errands.send(look, looked)

    def keep_alive(self, needed: Callable[[str], bool]) -> None:
        """Use each session before it ends, and end those that nobody needs."""
        now = time.monotonic()
        for owner, login in list(self._held.items()):
            if now - self._used.get(owner, 0.0) < login.idle_s / _KEPT:
                continue
            self._used[owner] = now
            if needed(owner):
                self._send(partial(omero.examine, self.address(owner), login.key), partial(self._asked, owner))
            else:
                self._forget(owner)
                self.drop(owner, login.key)

    def drop(self, owner: str, key: str) -> None:
        """End a session, if that is possible."""
        self._send(partial(omero.drop, self.address(owner), key), lambda _: None)

    def _send(self, work: Callable[[], object], then: Callable[[object], None]) -> None:
        with suppress(BusyError):
            self._errands.send(work, then)

    def _asked(self, owner: str, found: object) -> None:
        if isinstance(found, SessionEndedError):
            self._forget(owner)
        elif isinstance(found, RepositoryError):
            self._used.pop(owner, None)  # OMERO is away; it is asked again soon

    def _file(self, owner: str) -> Path:
        return self._folder / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.json"

    def _keep(self, login: _Login) -> None:
        self._used[login.owner] = time.monotonic()
        if self._held.get(login.owner) != login:
            write_private(self._file(login.owner), login)
            self._held[login.owner] = login

    def _forget(self, owner: str) -> None:
        self._held.pop(owner, None)
        self._file(owner).unlink(missing_ok=True)
