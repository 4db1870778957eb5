"""Listening viewers that have let this user in before."""

from __future__ import annotations

import msgspec

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.keys import Invitation, data_folder, read_invitation, read_private, write_private

_KNOWN = "known-viewers.json"


class _KnownViewers(msgspec.Struct, frozen=True, kw_only=True):
    """Public keys of listening viewers, by ``HOST:PORT``."""

    keys: dict[str, str] = {}


def known_viewer(host: str, port: int) -> Invitation:
    """Return how to call a listening viewer that has let this user's kernels in before.

    Raises
    ------
    StreamError
        If none at this address has.
    """
    key = _read().keys.get(f"{host}:{port}")
    if key is None:
        raise StreamError(
            f"The viewer at {host}:{port}, which the settings name, is not known yet.",
            f"Start it there with openhcs-jupyter viewer --bind 0.0.0.0:{port}, and give the line that it prints to "
            "%openhcs view once.",
        )
    return Invitation(host=host, port=port, key=key)


def viewer_line(host: str, port: int) -> str:
    """Return the line by which a listening viewer is called.

    Parameters
    ----------
    host
        Its own line, which is remembered, or the host of one that is known.
    port
        Of one that is known.

    Raises
    ------
    StreamError
        If it is no such line, or none is known at this address.
    """
    if "://" not in host:
        return known_viewer(host, port).line()
    invitation = read_invitation(host)
    remember_viewer(invitation)
    return invitation.line()


def remember_viewer(invitation: Invitation) -> None:
    """Keep the key of a listening viewer."""
    keys = _read().keys | {f"{invitation.host}:{invitation.port}": invitation.key}
    write_private(data_folder() / _KNOWN, _KnownViewers(keys=keys))


def _read() -> _KnownViewers:
    path = data_folder() / _KNOWN
    return read_private(path, _KnownViewers) if path.exists() else _KnownViewers()
