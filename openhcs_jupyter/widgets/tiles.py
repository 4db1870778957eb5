"""Pictures on their way to the browser: a few at a time, the latest first, each answered before more are sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Maker = Callable[[], bytes]
"""Draws a picture when its turn has come."""
_WINDOW = 3
_LOST_S = 5.0
"""A picture that is not answered by then does not hold back others."""


class Tiles:
    """Sends pictures to an `ImageCanvas`.

    Parameters
    ----------
    send
        Sends a message with buffers.
    """

    def __init__(self, send: Callable[[Mapping[str, Any], Sequence[bytes]], None]) -> None:
        self._send = send
        self._waiting: dict[str, Maker] = {}
        self._sent: dict[int, float] = {}
        self._number = 0

    def show(self, makers: Mapping[str, Maker]) -> None:
        """Send these pictures, by the id of their tile; those that still wait and are not among them are dropped."""
        self._waiting = dict(makers)
        self._pump()

    def add(self, tile: str, maker: Maker) -> None:
        """Send one more picture; replaces one of the same tile that still waits."""
        self._waiting[tile] = maker
        self._pump()

    def answered(self, number: int) -> None:
        """Take in that the browser has drawn a picture."""
        self._sent.pop(number, None)
        self._pump()

    def _pump(self) -> None:
        now = time.monotonic()
        self._sent = {number: at for number, at in self._sent.items() if now - at < _LOST_S}
        while self._waiting and len(self._sent) < _WINDOW:
            tile = next(iter(self._waiting))
            data = self._waiting.pop(tile)()
            self._number += 1
            self._sent[self._number] = time.monotonic()
            self._send({"type": "tile", "tile": tile, "number": self._number}, [data])
