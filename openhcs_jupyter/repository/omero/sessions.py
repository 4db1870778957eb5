"""Sessions with an OMERO server: opened with a password or joined, kept alive, joined again when they break."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from openhcs_jupyter.closing import Closing
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.omero import keeping
from openhcs_jupyter.repository.omero.address import Address
from openhcs_jupyter.repository.omero.keys import SESSION_KEY, SavedSession, keys_of, save_session, saved_session

T = TypeVar("T")
_log = logging.getLogger(__name__)
PATIENCE_S = 180.0
"""So long a run waits for a server that is away."""
_KEEP_ALIVE_S = 60.0
_PAUSE_S = 0.5
_INSTALL = "pip install 'openhcs-jupyter[omero]'; where pip finds no wheel of Ice, see the page on OMERO."


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


class UnreachableError(RepositoryError):
    """The server does not answer."""


class SessionEndedError(RepositoryError):
    """There is no session that can be joined, or no longer."""


class Connection(Closing):
    """One session, shared by the threads of a process; a context manager.

    Parameters
    ----------
    address
        Of the server.
    password
        Asked only where no session can be joined; None refuses then.
    patience_s
        A server that is away is waited for so long.
    key
        Of the session that is joined, and of no other; left out, one that this user has.

    Raises
    ------
    SessionEndedError
        If there is no session to join.
    RepositoryError
        If the server cannot be reached, or lets nobody in.
    """

    def __init__(
        self,
        address: Address,
        password: Callable[[str], str] | None = None,
        patience_s: float = 0.0,
        *,
        key: str | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._client: Any = None
        self._key = ""
        self._kept = ""
        self._only = key
        _connections.add(self)
        self.chosen_group = -1
        """Where plates are listed and looked for by their names; -1 is all groups of the user."""
        self.address = address
        until = time.monotonic() + patience_s
        self._patiently(lambda: self._open(password), until)

    @property
    def key(self) -> str:
        """The session's key; known also while the server is away."""
        return self._key

    @property
    def group(self) -> int:
        """The group in which this session reads and writes."""
        return int(self._context.groupId)

    @property
    def user(self) -> str:
        """The user's name on the server."""
        name: str = self._context.userName
        return name

    @property
    def user_id(self) -> int:
        """The user's id on the server."""
        return int(self._context.userId)

    @property
    def group_name(self) -> str:
        """The name of that group."""
        name: str = self._context.groupName
        return name

    @property
    def is_administrator(self) -> bool:
        """Whether the user is an administrator of the server."""
        return bool(self._context.isAdmin)

    @property
    def session(self) -> Any:
        """The session's service factory."""
        return self._client.getSession()

    def call(self, work: Callable[[Any], T], patience_s: float = 0.0) -> T:
        """Do something with the session's service factory; where the session broke, it is joined again and done anew.

        Parameters
        ----------
        work
            Done from its beginning after each break, so what it did before must not matter.
        patience_s
            A server that is away is waited for so long.

        Raises
        ------
        RepositoryError
            If the server is gone, or the session is and cannot be joined.
        """
        until = time.monotonic() + patience_s
        last = False
        while True:
            client = self._client
            try:
                return work(self.session)
            except Exception as error:
                if not _is_broken(error):
                    raise
                if last:
                    raise self._unreachable(error) from error
                last = time.monotonic() >= until
            self._join_again(client, until)

    @property
    def everywhere(self) -> dict[str, str]:
        """The context of calls that look into all of the user's groups."""
        return {"omero.group": "-1"}

    @property
    def chosen(self) -> dict[str, str]:
        """The context of calls that look for plates: all groups, or the one that the user chose."""
        return {"omero.group": str(self.chosen_group)}

    def keep_alive(self) -> None:
        """Have the session kept alive while this connection is open, by a process that no computing holds up."""
        with self._lock:
            if self._kept != self._key:
                self._let_go()
                idle_ms = self.session.getSessionService().getSession(self._key).timeToIdle
                idle_s = idle_ms.val / 1000 if idle_ms is not None and idle_ms.val > 0 else _KEEP_ALIVE_S * 3
                keeping.keep(self.address, self._key, min(_KEEP_ALIVE_S, idle_s / 3))
                self._kept = self._key

    def close(self) -> None:
        """Leave the session; it lives on where another process uses it."""
        with self._lock:
            self._let_go()
            if self._client is not None:
                with suppress(Exception):
                    self._client.__del__()  # closes the connection and detaches from the session
                self._client = None

    def _let_go(self) -> None:
        if self._kept:
            keeping.let_go(self._kept)
            self._kept = ""

    def _open(self, password: Callable[[str], str] | None) -> None:
        if self._only is not None:
            if not self._only or not self._join(self._only):
                raise SessionEndedError(f"The session with {self.address.uri} has ended.", "Connect again.")
            return
        if any(self._join(key) for key in keys_of(self.address)):
            return
        if password is None:
            raise SessionEndedError(
                f"There is no session with {self.address.uri} that can be joined.",
                f"Connect once: %openhcs connect {self.address.uri}, or set {SESSION_KEY}.",
            )
        if not self.address.user:
            raise RepositoryError(f"{self.address.uri} names no user.", "Write omero://USER@HOST.")
        self._log_in(password(self.address.user))
        save_session(self.address, SavedSession(key=self.key, user=self.user, group=self.group))

    def _join(self, key: str) -> bool:
        import Glacier2

        client = self._new_client()
        try:
            client.joinSession(key).detachOnDestroy()
            self._take(client)
        except (Glacier2.CannotCreateSessionException, Glacier2.PermissionDeniedException):
            client.__del__()
            return False
        except Exception as error:
            client.__del__()
            raise self._unreachable(error) from error
        return True

    def _log_in(self, password: str) -> None:
        import Glacier2

        client = self._new_client()
        try:
            client.createSession(self.address.user, password).detachOnDestroy()
            self._take(client)
        except Glacier2.PermissionDeniedException:
            client.__del__()
            # Not chained: the call's values, the password among them, would stand in the long traceback.
            raise RepositoryError(
                f"{self.address.host} does not let {self.address.user} in with this password.", "Connect again."
            ) from None
        except Exception as error:  # noqa: BLE001 - Ice has many ways to say that a server is not there
            client.__del__()
            raise self._unreachable(error) from None

    def _take(self, client: Any) -> None:
        self._context = client.getSession().getAdminService().getEventContext()
        self._client, self._key = client, client.getSessionId()

    def _join_again(self, broken: Any, until: float) -> None:
        """Join the session again, or the one for which the user connected anew; another thread may have done so."""
        with self._lock:
            if self._client is not broken:
                return
            if broken is None:
                raise RepositoryError(f"The connection with {self.address.uri} was closed.")
            with suppress(Exception):
                broken.__del__()
            if not self._patiently(self._join_any, until):
                raise SessionEndedError(
                    f"The session with {self.address.uri} has ended.",
                    f"Connect again: %openhcs connect {self.address.uri}; a run goes on with --resume.",
                )
            if self._kept and self._kept != self._key:
                self.keep_alive()

    def _join_any(self) -> bool:
        saved = saved_session(self.address) if self._only is None else None
        return any(self._join(key) for key in dict.fromkeys((self._key, saved.key if saved else self._key)))

    def _patiently(self, join: Callable[[], T], until: float) -> T:
        """Join; a server that does not answer is asked again until it is too late."""
        said = False
        while True:
            try:
                return join()
            except UnreachableError as error:
                left = until - time.monotonic()
                if left <= 0:
                    raise
                if not said:
                    said = True
                    _log.warning("%s It is asked again for %.0f s.", error.message, left)
                time.sleep(_PAUSE_S)

    def _new_client(self) -> Any:
        try:
            import omero.clients
        except ImportError as error:
            raise RepositoryError(f"OMERO needs omero-py and Ice: {error}.", _INSTALL) from error
        client = omero.client(self.address.host, self.address.port)
        client.setAgent("openhcs-jupyter")
        client.enableKeepAlive(0)
        return client

    def _unreachable(self, error: BaseException) -> UnreachableError:
        where = f"{self.address.host}:{self.address.port}"
        return UnreachableError(f"No OMERO server answers at {where}: {_said(error)}.", "Check host and port.")


@atexit.register
def _close_all() -> None:
    """Leave the sessions of connections that nobody has closed; Ice complains of them otherwise."""
    for connection in list(_connections):
        connection.close()


def _is_broken(error: BaseException) -> bool:
    """Tell whether an error says that a connection or session is no more, and not that a call was wrong."""
    import Ice
    import omero

    # A protocol error is how SSL says that the server died; a client that was closed is what a failed joining left.
    kinds = (
        Ice.SocketException, Ice.TimeoutException, Ice.ProtocolException, Ice.ObjectNotExistException,
        Ice.CommunicatorDestroyedException, Ice.DNSException, omero.SessionException, omero.ClientError,
    )  # fmt: skip
    return isinstance(error, kinds) and not isinstance(error, Ice.MarshalException)


def _said(error: BaseException) -> str:
    """Say in one line what an exception of Ice's or of OMERO's tells."""
    text = str(getattr(error, "reason", "") or getattr(error, "message", "") or error)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("Ice.")]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
