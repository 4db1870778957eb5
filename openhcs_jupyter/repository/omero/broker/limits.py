"""Keeps one user of the machine from taking the broker for all others: so many requests a second, so many guesses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Limits:
    """A bucket for each user, which fills at a steady rate.

    Parameters
    ----------
    per_s
        How fast it fills.
    most
        How much it holds.
    clock
        Tells the time in seconds.
    """

    def __init__(self, per_s: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[int, tuple[float, float]] = {}

    def wait_s(self, user: int, cost: float = 1.0) -> float:
        """Take something out of a user's bucket; where it is empty, say after how many seconds to come again.

        Returns
        -------
        float
            0 if it was taken.
        """
        with self._lock:
            now = self._clock()
            held, then = self._buckets.get(user, (self._most, now))
            held = min(self._most, held + (now - then) * self._per_s)
            enough = held >= cost
            self._buckets[user] = (held - cost if enough else held, now)
            return 0.0 if enough else (cost - held) / self._per_s
