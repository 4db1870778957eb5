"""Keys of sessions that can be joined: given by the environment, kept by this package, or left by ``omero login``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import platformdirs

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.files import check_parents, write_whole
from openhcs_jupyter.repository.omero.address import DEFAULT_PORT, Address

SESSION_KEY = "OMERO_SESSION_KEY"
_KEY_FILE = "OMERO_SESSION_KEY_FILE"


class SavedSession(msgspec.Struct, frozen=True, kw_only=True):
    """What a process leaves for those that join its session: workers, a kernel that starts again."""

    key: str
    user: str
    group: int


def session_file(address: Address) -> Path:
    """Return where the key of a session is kept, readable by its owner only."""
    folder = Path(platformdirs.user_state_dir("openhcs-jupyter"))
    name = f"{address.host}_{address.port}_{address.user}".replace("/", "_").replace(":", "_")
    return folder / "omero" / f"{name}.json"


def save_session(address: Address, session: SavedSession) -> None:
    """Write a session's key, for this user's other processes.

    Raises
    ------
    RepositoryError
        If everybody can put another folder in the place of that for keys.
    """
    path = session_file(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    check_parents(path.parent, RepositoryError)
    write_whole(path, msgspec.json.encode(session), private=True)


def saved_session(address: Address) -> SavedSession | None:
    """Return the session whose key was kept, if any."""
    path = session_file(address)
    with suppress(OSError, msgspec.MsgspecError):
        if path.stat().st_uid == os.getuid() and not path.stat().st_mode & 0o077:
            return msgspec.json.decode(path.read_bytes(), type=SavedSession)
    return None


def given_key() -> str | None:
    """Return the session key that the environment, or the file it names, gives to a batch run."""
    if key := os.environ.get(SESSION_KEY):
        return key.strip()
    if name := os.environ.get(_KEY_FILE):
        path = Path(name)
        try:
            if path.stat().st_mode & 0o077:
                raise RepositoryError(f"{path} holds a session key and others may read it.", f"chmod 600 {path}")
            return path.read_text().strip()
        except OSError as error:
            raise RepositoryError(f"The session key in {path} cannot be read: {error.strerror}.") from error
    return None


def keys_of(address: Address) -> Iterator[str]:
    """Iterate over the keys of sessions that may be joined, the likeliest first."""
    if key := given_key():
        yield key
    if saved := saved_session(address):
        yield saved.key
    yield from _logged_in(address)


def _logged_in(address: Address) -> list[str]:
    """Return the keys that ``omero login`` left on this machine."""
    from omero.util import get_omero_userdir
    from omero.util.sessions import SessionsStore

    if not (get_omero_userdir() / "sessions").exists():
        return []
    users = SessionsStore().contents().get(address.host, {})
    return [
        key
        for user, sessions in users.items()
        for key, told in sessions.items()
        if address.user in ("", user) and int(told.get("omero.port") or DEFAULT_PORT) == address.port
    ]
