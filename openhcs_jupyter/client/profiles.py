"""Profiles: the execution servers that a user knows, and how they prove there who they are."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from openhcs_jupyter.config import config_file
from openhcs_jupyter.errors import StreamError, UsageError
from openhcs_jupyter.server.identity import read_token
from openhcs_jupyter.streaming.keys import Invitation, private_folder, read_private, write_private

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ADD = "Add one: openhcs-jupyter server add NAME LINE, with the line that openhcs-jupyter serve prints."


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One execution server, as one user knows it. Kept in a file that only its owner can read."""

    name: str
    host: str
    port: int
    key: str
    """The server's public key, Z85; whoever answers without its secret half is not spoken to."""
    token: str = ""
    """Proves who the user is, to a server with an embedded repository."""
    omero: str = ""
    """URI of the OMERO server whose session proves it, ``omero://USER@HOST``."""

    @property
    def address(self) -> str:
        """Where the server is."""
        return f"{self.host}:{self.port}"


def profile_of(name: str, invitation: Invitation, *, token: str = "", omero: str = "") -> Profile:
    """Make a profile of the line that a server prints.

    Parameters
    ----------
    name
        The user's name for the server.
    invitation
        The line, read.
    token, omero
        One of them, as in `Profile`.

    Raises
    ------
    UsageError
        If the name does not fit, or there is not exactly one way to prove who the user is.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a server", "Use letters, digits, and . _ -")
    if bool(token) == bool(omero):
        raise UsageError(
            f"How do you prove to {name} who you are?",
            "Give --token FILE, a file that the server made, or --omero omero://USER@HOST: one of them.",
        )
    return Profile(name=name, host=invitation.host, port=invitation.port, key=invitation.key, token=token, omero=omero)


def profile_of_folder(name: str, folder: Path, *, omero: str = "") -> Profile:
    """Make a profile of a server of this machine, by what it keeps in its folder.

    Raises
    ------
    UsageError
        If no server that this user may use keeps its files there.
    """
    try:
        invitation = read_private(folder / "server.json", Invitation)
    except StreamError as error:
        raise UsageError(error.message, "Name the folder that openhcs-jupyter serve prints.") from None
    return profile_of(name, invitation, token="" if omero else read_token(folder / "token"), omero=omero)


def save_profile(profile: Profile) -> Path:
    """Keep a profile; one of the same name is replaced. Returns its file."""
    path = private_folder(_folder()) / f"{profile.name}.json"
    write_private(path, profile)
    return path


def load_profile(name: str) -> Profile:
    """Return the profile of a name.

    Raises
    ------
    UsageError
        If there is none, or others can read its file.
    """
    path = _folder() / f"{name}.json"
    if not _NAME.fullmatch(name) or not path.exists():
        there = ", ".join(profile_names())
        raise UsageError(f"There is no server {name!r} among your profiles", f"There are: {there}." if there else _ADD)
    try:
        return read_private(path, Profile)
    except StreamError as error:
        raise UsageError(error.message, error.hint) from None


def find_profile(name: str | None) -> Profile:
    """Return the profile of a name, or the only one.

    Raises
    ------
    UsageError
        If there is none, or none is named and there are several.
    """
    if name:
        return load_profile(name)
    names = profile_names()
    if len(names) == 1:
        return load_profile(names[0])
    if not names:
        raise UsageError("You have no profile of an execution server", _ADD)
    raise UsageError(
        f"There are several servers: {', '.join(names)}", "Say --server NAME, or set one: %openhcs config server NAME."
    )


def profile_names() -> list[str]:
    """List the names of all profiles."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def remove_profile(name: str) -> None:
    """Forget a server.

    Raises
    ------
    UsageError
        If there is no such profile.
    """
    path = _folder() / f"{name}.json"
    if not _NAME.fullmatch(name) or not path.exists():
        load_profile(name)
    path.unlink()


def _folder() -> Path:
    return config_file().parent / "servers"
