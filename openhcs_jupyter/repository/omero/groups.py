"""The groups of a user, and the one whose plates are looked at."""

from __future__ import annotations

from collections import Counter
from typing import Any

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.base import Group
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.queries import ask
from openhcs_jupyter.repository.omero.sessions import Connection

_RIGHTS = {"rw----": "private", "rwr---": "read-only", "rwra--": "read-annotate", "rwrw--": "read-write"}
_OWN = {"user", "guest", "system"}
"""Groups that every server has for itself."""


def list_groups(session: Any, connection: Connection) -> list[Group]:
    """List the groups of the user."""
    plates = Counter(row[2] for row in ask(session, queries.PLATES, connection.everywhere))
    return [
        Group(
            name=name,
            rights=_RIGHTS.get(rights, rights),
            plates=plates[name],
            chosen=connection.chosen_group in (-1, number),
        )
        for number, name, rights in _groups(session, connection)
    ]


def find_group(session: Any, name: str | None, connection: Connection) -> int:
    """Return the id of a group of the user; -1 for all.

    Raises
    ------
    RepositoryError
        If the user is in no such group.
    """
    if name is None:
        return -1
    groups = {text: number for number, text, _ in _groups(session, connection)}
    found = groups.get(name)
    if found is None and name.isdecimal() and int(name) in groups.values():
        found = int(name)
    if found is None:
        raise RepositoryError(f"You are in no group {name!r}.", f"There are: {', '.join(groups)}, and all.")
    return found


def _groups(session: Any, connection: Connection) -> list[tuple[int, str, str]]:
    groups = session.getAdminService().containedGroups(connection.user_id)
    found = [(int(one.id.val), str(one.name.val), str(one.details.permissions)) for one in groups]
    return sorted((one for one in found if one[1] not in _OWN), key=lambda one: one[1])
