"""What a kernel and the broker say to each other: a message a packet, in JSON, and a descriptor where it is granted."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from openhcs_jupyter.errors import RepositoryError

MOST_BYTES = 32 * 1024
"""Of a message; longer ones are cut off by the socket, and refused."""
MOST_IMAGES = 256
"""In one message."""
MOST_FILES = 64
"""Opened by one message; the kernel of Linux passes 253 descriptors at once."""

Number = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Numbers = Annotated[tuple[Number, ...], msgspec.Meta(max_length=MOST_IMAGES)]
# As OMERO makes them. What is no UUID might be a user's name, and a session can be opened with a name as its password.
Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")]
FileName = Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
FileNames = Annotated[tuple[FileName, ...], msgspec.Meta(max_length=MOST_FILES)]

Code = Literal["request", "session", "permission", "restricted", "missing", "outside", "slow", "server"]


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open", forbid_unknown_fields=True):
    """Asks for files of an image."""

    session: Key
    image: Number
    files: FileNames = ()
    """Some of those that the image was imported from, as OMERO names them; none is the file in OMERO's own layout."""
    ahead: Numbers = ()
    """Images that will be asked for soon; OMERO is asked about all of them at once."""


class Check(msgspec.Struct, frozen=True, kw_only=True, tag="check", forbid_unknown_fields=True):
    """Asks which images would be refused; opens nothing."""

    session: Key
    images: Numbers


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", forbid_unknown_fields=True):
    """Asks for the policy; needs no session."""


class Granted(msgspec.Struct, frozen=True, kw_only=True, tag="granted"):
    """The files' descriptors come with this message, in the order in which they were asked for."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Nothing is handed out."""

    code: Code
    why: str
    retry_after_s: float = 0.0


class Verdicts(msgspec.Struct, frozen=True, kw_only=True, tag="verdicts"):
    """Why images would be refused, by id; those that are not named would be granted."""

    refused: dict[int, str]


class Policy(msgspec.Struct, frozen=True, kw_only=True, tag="policy"):
    """What the administrator allows."""

    plates: bool
    """Images of plates are handed out though OMERO restricts their originals."""
    requests_per_s: float
    """Of one user of the machine."""
    version: str


Request = Open | Check | Hello
Reply = Granted | Refused | Verdicts | Policy

_requests = msgspec.json.Decoder(Request)
_replies: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """Write a message."""
    return msgspec.json.encode(message)


def read_request(data: bytes) -> Request:
    """Read what a kernel sent.

    Raises
    ------
    RepositoryError
        If it is no request; says why, and never what was in it, which may be a session's key.
    """
    try:
        request: Request = _requests.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        where = str(error).rpartition(" - ")[2] if isinstance(error, msgspec.ValidationError) else "it cannot be read"
        raise RepositoryError(f"This is no request that the broker knows: {where}.") from None
    return request


def read_reply(data: bytes) -> Reply:
    """Read what the broker sent.

    Raises
    ------
    RepositoryError
        If it is no reply.
    """
    try:
        return _replies.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RepositoryError(
            f"The broker's answer cannot be understood: {error}.", "Is it of the same version?"
        ) from error
