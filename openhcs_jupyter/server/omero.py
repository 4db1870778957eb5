"""Sessions with OMERO: asked about, made for the server and for jobs, and dropped."""

from __future__ import annotations

from typing import Any

import msgspec

from openhcs_jupyter.repository.omero.address import Address, parse_address
from openhcs_jupyter.repository.omero.sessions import Connection


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What OMERO says of a session."""

    user: str
    administrator: bool
    group: str
    idle_s: float
    """An unused session ends after so long."""


def address_for(uri: str, owner: str) -> Address:
    """Return the address of a server for one of its users."""
    return msgspec.structs.replace(parse_address(uri), user=owner)


def examine(address: Address, key: str) -> Seen:
    """Ask OMERO whose a session is; this keeps it alive, too.

    Raises
    ------
    SessionEndedError
        If there is no such session.
    RepositoryError
        If OMERO does not answer.
    """
    with Connection(address, key=key) as connection:
        return _seen(connection)


def derive(address: Address, key: str, patience_s: float = 0.0) -> tuple[str, Seen]:
    """Make another session of the same user in the same group, which outlives the first; returns its key.

    Raises
    ------
    SessionEndedError
        If there is no such session.
    RepositoryError
        If OMERO does not answer.
    """
    with Connection(address, key=key, patience_s=patience_s) as connection:
        seen = _seen(connection)

        def make(session: Any) -> str:
            made = session.getSessionService().createUserSession(0, int(seen.idle_s * 1000), seen.group)
            uuid: str = made.uuid.val
            return uuid

        return connection.call(make), seen


def drop(address: Address, key: str) -> None:
    """End a session.

    Raises
    ------
    RepositoryError
        If it has ended already, or OMERO does not answer.
    """
    with Connection(address, key=key) as connection:

        def end(session: Any) -> None:
            service = session.getSessionService()
            service.closeSession(service.getSession(key))

        connection.call(end)


def _seen(connection: Connection) -> Seen:
    def idle(session: Any) -> float:
        told = session.getSessionService().getSession(connection.key).timeToIdle
        return told.val / 1000 if told is not None and told.val > 0 else 600.0

    return Seen(
        user=connection.user,
        administrator=connection.is_administrator,
        group=connection.group_name,
        idle_s=connection.call(idle),
    )
