"""Proves to a server who the user is: by a token, or by a session with OMERO that is kept alive meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from openhcs_jupyter.client.profiles import Profile

if TYPE_CHECKING:
    from openhcs_jupyter.repository.omero.sessions import Connection


class Credentials:
    """What a profile says to a server.

    Parameters
    ----------
    profile
        Of the server.
    password
        Asks a user of OMERO for the password, where no session can be joined; None refuses then.

    Raises
    ------
    RepositoryError
        If OMERO cannot be reached, or lets the user not in.
    """

    def __init__(self, profile: Profile, password: Callable[[str], str] | None = None) -> None:
        self._token = profile.token
        self._connection: Connection | None = None
        if profile.omero:
            from openhcs_jupyter.repository.omero.address import parse_address
            from openhcs_jupyter.repository.omero.sessions import Connection

            self._connection = Connection(parse_address(profile.omero), password)

    def said(self) -> Mapping[str, str]:
        """Return the fields of `Hello` that tell who the user is."""
        return {"token": self._token} if self._connection is None else {"session": self._connection.key}

    def close(self) -> None:
        """Leave the session with OMERO; it lives on where something else uses it."""
        if self._connection is not None:
            self._connection.close()
