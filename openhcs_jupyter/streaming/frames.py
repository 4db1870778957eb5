"""Reads frames that others have sent: what is not as it should be is one kind of error, and never a crash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class MalformedError(Exception):
    """A message is not what its format says."""


def decode(decoder: msgspec.msgpack.Decoder[T], frame: Any) -> T:
    """Read one frame.

    Raises
    ------
    MalformedError
        If it is not what the decoder takes.
    """
    try:
        return decoder.decode(memoryview(frame))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(str(error)) from None


def require(frames: Sequence[Any], count: int) -> None:
    """Check the number of a message's frames.

    Raises
    ------
    MalformedError
        If it is another one.
    """
    if len(frames) != count:
        raise MalformedError(f"{len(frames)} frames instead of {count}")
