"""Measures what a link carries, and how much may be under way on it."""

from __future__ import annotations

import time

_SPAN_S = 0.05
_SPAN_BYTES = 1 << 22
_NEW_SHARE = 0.4
_QUEUE_S = 0.1
_LEAST_WINDOW = 1 << 19
_FIRST_WINDOW = 1 << 21
_MOST_WINDOW = 1 << 26


class LinkRate:
    """The rate of a link, from the times at which payloads arrive."""

    def __init__(self) -> None:
        self.value = 0.0
        """Bytes a second; 0 until it is known."""
        self.rtt = 0.0
        """Shortest time from a ping to its answer, seconds."""
        self._start = 0.0
        self._bytes = 0
        self._probed = 0.0

    def answered(self, asked: float) -> None:
        """Note that an answer came to what was asked at a time of the monotonic clock."""
        took = time.monotonic() - asked
        self.rtt = min(self.rtt, took) if self.rtt else took

    def probed(self, size: int, number: int) -> None:
        """Note one of four payloads that were sent without a pause."""
        now = time.monotonic()
        if number == 0:
            self._probed = now
        elif number == 3 and self._probed:
            self._measured(3 * size / max(now - self._probed, 1e-4))

    def arrived(self, size: int, *, more: bool) -> None:
        """Note a payload; `more` tells that others were on their way, so that the link had no reason to be idle."""
        now = time.monotonic()
        if self._start:
            self._bytes += size
            took = now - self._start
            if took >= _SPAN_S or self._bytes >= _SPAN_BYTES:
                self._measured(self._bytes / max(took, 1e-4))
                self._start, self._bytes = now, 0
        else:
            self._start = now
        if not more:
            self._start, self._bytes = 0.0, 0

    def window(self, *, near: bool) -> int:
        """Return how many bytes may be under way: what the link carries in a round trip and a tenth of a second."""
        if near:
            return _MOST_WINDOW
        if not self.value:
            return _FIRST_WINDOW
        return int(min(max(self.value * (_QUEUE_S + 2 * self.rtt), _LEAST_WINDOW), _MOST_WINDOW))

    def _measured(self, rate: float) -> None:
        self.value = rate if not self.value else (1 - _NEW_SHARE) * self.value + _NEW_SHARE * rate
