"""The wire format: what kernel and viewer say to each other. ``docs/wire-format.md`` describes it for strangers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from openhcs_jupyter.streaming.frames import MalformedError, decode, require
from openhcs_jupyter.streaming.layers import (
    LayerKnown,
    Progressed,
    RunAnnounced,
    StackReady,
    TableReady,
)

WIRE_VERSION = 1
MOST_REQUEST_BYTES = 1 << 16
"""Of a message from a viewer; what is larger closes the connection."""
MOST_MESSAGE_BYTES = 1 << 28
"""Of one frame from a kernel; larger planes go in parts."""

Codec = Literal["raw", "lz4", "zstd"]
Told = RunAnnounced | LayerKnown | StackReady | TableReady | Progressed
"""Announcements that cross the wire."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="is"):
    """The base of all messages."""


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """A viewer begins a session; what it asked for in an earlier one is forgotten."""

    version: int
    session: int
    """Chosen by the viewer, another one after each loss of the connection; every answer repeats it."""
    machine: str = ""
    """Equal on both sides where both are on one machine."""


class Ask(Message, frozen=True, kw_only=True, tag="ask"):
    """Asks for what was announced after a number."""

    after: int


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    """Asks whether the kernel is there; answered by `Pong`."""

    probe: int = 0
    """Ask for this many bytes, in four messages, from whose distance in time the viewer tells the link's rate."""


class Credit(Message, frozen=True, kw_only=True, tag="credit"):
    """Lets the kernel send."""

    granted: int
    """Bytes of payload since the session began, sent ones included."""
    rate: float = 0.0
    """Bytes a second that the link was seen to carry; 0 where that is not known."""


class Want(Message, frozen=True, kw_only=True, tag="want"):
    """Asks for one plane."""

    id: int
    """Chosen by the viewer; the answer repeats it."""
    run: str
    layer: int
    well: int
    field: int
    t: int
    z: int
    coarse: bool = False
    priority: int = 0


class WantTable(Message, frozen=True, kw_only=True, tag="want-table"):
    """Asks for the rows of a table or points at one well and field."""

    id: int
    run: str
    layer: int
    well: int
    field: int
    priority: int = 0


class Drop(Message, frozen=True, kw_only=True, tag="drop"):
    """Withdraws requests; parts that are on their way still arrive."""

    ids: tuple[int, ...]


class Bye(Message, frozen=True, kw_only=True, tag="bye"):
    """A viewer or a kernel leaves."""


class Enrolled(Message, frozen=True, kw_only=True, tag="enrolled"):
    """A listening viewer has enrolled the key that a kernel named; the kernel connects again, with that key."""


class Knock(Message, frozen=True, kw_only=True, tag="knock"):
    """A kernel that has connected to a listening viewer says who it is.

    With its own key it is answered by `Hello`, and the roles are as if the viewer had connected. With the key of an
    invitation's token it names its own public key, and is answered by `Enrolled`.
    """

    name: str
    key: str = ""


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The kernel's answer to `Hello`."""

    version: int
    session: int
    epoch: str
    """Another one each time the kernel starts; numbers count within it."""
    name: str
    machine: str
    number: int
    """Of the latest announcement."""


class Said(Message, frozen=True, kw_only=True, tag="said"):
    """The kernel's answer to `Ask`: a page of announcements in their order."""

    epoch: str
    number: int
    """Everything up to this number is told."""
    announcements: tuple[Told, ...]
    more: bool
    """Ask again after `number`."""


class News(Message, frozen=True, kw_only=True, tag="news"):
    """What is announced at one time, as it happens; goes to all viewers."""

    epoch: str
    number: int
    """Of the first of them; those that follow count on."""
    announcements: tuple[Told, ...]


class Pong(Message, frozen=True, kw_only=True, tag="pong"):
    """The kernel is there."""

    session: int
    number: int


class Probe(Message, frozen=True, kw_only=True, tag="probe"):
    """A fourth of what `Ping` asked for; its payload has no meaning."""

    session: int
    number: int


class Part(Message, frozen=True, kw_only=True, tag="part"):
    """Rows of a plane; they are the payload, as one frame."""

    id: int
    session: int
    version: str
    dtype: str
    """NumPy's name; little-endian."""
    shape: tuple[int, int]
    """Of the whole plane, ``(Y, X)``."""
    row: int
    """The first of the rows."""
    rows: int
    codec: Codec
    """``raw``: C order. ``lz4``, ``zstd``: a Blosc 1 container of the same."""


class Rows(Message, frozen=True, kw_only=True, tag="rows"):
    """The rows of a table, in Arrow's file format; they are the payload."""

    id: int
    session: int
    version: str


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """There is no answer to a request."""

    id: int
    session: int
    message: str


FromViewer = Hello | Ask | Ping | Credit | Want | WantTable | Drop | Bye | Enrolled
FromKernel = Welcome | Said | News | Pong | Probe | Part | Rows | Refused | Bye | Knock

_encoder = msgspec.msgpack.Encoder()
_from_viewer: msgspec.msgpack.Decoder[FromViewer] = msgspec.msgpack.Decoder(FromViewer)
_from_kernel: msgspec.msgpack.Decoder[FromKernel] = msgspec.msgpack.Decoder(FromKernel)


def encode(message: Message) -> bytes:
    """Write a message's header frame."""
    return _encoder.encode(message)


def read_from_viewer(frames: Sequence[Any]) -> FromViewer:
    """Read a message of a viewer: one frame.

    Raises
    ------
    MalformedError
        If it is none.
    """
    require(frames, 1)
    return decode(_from_viewer, frames[0])


def read_from_kernel(frames: Sequence[Any]) -> tuple[FromKernel, Any]:
    """Read a message of a kernel: a header, and a payload where the message has one.

    Raises
    ------
    MalformedError
        If it is none.
    """
    if not 1 <= len(frames) <= 2:
        raise MalformedError(f"{len(frames)} frames instead of 1 or 2")
    message = decode(_from_kernel, frames[0])
    if isinstance(message, Part | Rows | Probe) != (len(frames) == 2):
        raise MalformedError(f"{type(message).__name__} with {len(frames)} frames")
    return message, frames[1] if len(frames) == 2 else None
