"""What a kernel and the laptop of its user say to each other through the tunnel, a line of JSON each."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

PING_S = 5.0
"""So often the laptop says that it is there."""
GONE_S = 25.0
"""Who has said nothing for so long has gone."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first word of the laptop; the kernel answers with a ping."""


class Again(msgspec.Struct, frozen=True, kw_only=True, tag="again"):
    """The connection was cut: the kernel is to send its output again."""

    since: str
    """Signature of the last message of output that has arrived; empty if none has."""


class Told(msgspec.Struct, frozen=True, kw_only=True, tag="told"):
    """The kernel's answer."""

    first: str
    """Signature of the first message that was sent again; empty if there was none."""


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag="ping"):
    """The laptop is still there; the kernel says the same in return."""


class View(msgspec.Struct, frozen=True, kw_only=True, tag="view"):
    """The kernel serves viewers, and a window is wanted unless one is open."""

    number: int
    """The laptop's answer has the same."""
    control: str
    """Socket of requests and planes on the kernel's machine."""
    news: str
    """Socket of announcements there."""


class Shown(msgspec.Struct, frozen=True, kw_only=True, tag="shown"):
    """The laptop's answer."""

    number: int
    error: str = ""
    """Why there is no window."""


Word: TypeAlias = Hello | Ping | Again | Told | View | Shown
_DECODER = msgspec.json.Decoder(Word)


def encode(word: Word) -> bytes:
    """Write a word as a line."""
    return msgspec.json.encode(word) + b"\n"


class Ear:
    """Puts lines together from what arrives in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def hear(self, piece: bytes) -> list[Word]:
        """Return the words that are complete now.

        Raises
        ------
        MsgspecError
            If something else was said.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [_DECODER.decode(line) for line in lines]
