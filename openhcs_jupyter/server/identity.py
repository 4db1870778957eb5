"""Who a client is: owners by token or by a session with OMERO, bound to the CURVE key of the client's connections."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.files import write_whole
from openhcs_jupyter.server.protocol import TICKET_BYTES
from openhcs_jupyter.server.queue import Queue

MOST_CLIENTS = 10_000
_SILENT_S = 12 * 3600.0


class Identity(msgspec.Struct, kw_only=True):
    """Whom a client's key stands for."""

    owner: str
    administrator: bool = False
    session: str = ""
    """With OMERO; empty where a token told the owner."""
    group: str = ""
    """The group of that session."""
    checked: float = 0.0
    """When OMERO was last asked, by the monotonic clock."""
    seen: float = 0.0
    """When the client last asked something."""


class Clients:
    """Those who have said who they are, by the public CURVE keys of their connections."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Identity] = OrderedDict()
        self._tickets: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Identity | None:
        """Return who a key stands for, and note that it was seen."""
        found = self._known.get(key)
        if found is not None:
            found.seen = time.monotonic()
            self._known.move_to_end(key)
        return found

    def add(self, key: str, identity: Identity) -> None:
        """Bind a key; those who were silent longest are forgotten where there are too many."""
        identity.seen = time.monotonic()
        self._known[key] = identity
        self._known.move_to_end(key)
        while len(self._known) > MOST_CLIENTS:
            self._known.popitem(last=False)

    def sweep(self) -> None:
        """Forget those who were silent for long."""
        now = time.monotonic()
        for key in [key for key, one in self._known.items() if now - one.seen > _SILENT_S]:
            del self._known[key]

    def owners(self) -> set[str]:
        """Return the owners who have been here lately."""
        self.sweep()
        return {one.owner for one in self._known.values()}

    def due(self, every_s: float) -> set[str]:
        """Return the sessions about which OMERO is to be asked again."""
        now = time.monotonic()
        return {one.session for one in self._known.values() if one.session and now - one.checked > every_s}

    def confirm(self, session: str, *, administrator: bool) -> None:
        """Note that OMERO still knows a session."""
        for one in self._known.values():
            if one.session == session:
                one.checked, one.administrator = time.monotonic(), administrator

    def forget(self, session: str) -> None:
        """Forget who came by a session; the owner's announcements get another ticket.

        The owner's other clients are forgotten, too: they say again who they are, and learn the new ticket.
        """
        owners = {one.owner for one in self._known.values() if one.session == session}
        for key in [key for key, one in self._known.items() if one.owner in owners]:
            self._tickets.pop(self._known.pop(key).owner, None)

    def ticket(self, owner: str) -> bytes:
        """Return the topic of an owner's announcements, which nobody else learns."""
        return self._tickets.setdefault(owner, secrets.token_bytes(TICKET_BYTES))

    def is_ticket(self, topic: bytes) -> bool:
        """Tell whether a topic is somebody's."""
        return any(hmac.compare_digest(topic, ticket) for ticket in self._tickets.values())


def new_token(queue: Queue, owner: str, path: Path) -> None:
    """Make a token by which an owner is known, and write it into a file that only this account can read."""
    token = secrets.token_hex(32)
    write_whole(path, f"{token}\n".encode(), private=True)
    queue.set_token(owner, _digest(token))
    queue.settle()


def read_token(path: Path) -> str:
    """Read a token file.

    Raises
    ------
    UsageError
        If it cannot be read, or others can read it.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise UsageError(f"{path} holds a token, and others can read it.", f"chmod 600 {path}")
        return path.read_text().strip()
    except OSError as error:
        raise UsageError(f"The token file {path} cannot be read: {error.strerror}.") from None


def owner_of(queue: Queue, token: str) -> str | None:
    """Return whose token it is; takes as long for one that is nobody's."""
    digest = _digest(token)
    found = None
    for known, owner in queue.tokens().items():
        if hmac.compare_digest(known, digest):
            found = owner
    return found


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
