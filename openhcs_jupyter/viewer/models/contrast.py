"""The limits of a layer's contrast, from the robust limits of the fields that have arrived."""

from __future__ import annotations

from bisect import insort

_KEPT = 512
_MOVED = 0.08


class Contrast:
    """Limits that settle: they move only when what has arrived asks for a change that can be seen."""

    def __init__(self) -> None:
        self.limits: tuple[float, float] | None = None
        """As they are used; None until something has arrived."""
        self._lows: list[float] = []
        self._highs: list[float] = []

    def add(self, low: float, high: float) -> bool:
        """Take the limits of one field; tells whether `limits` have moved.

        The lower limit is the median of all fields', so that the background is dark; the upper one the 95th percentile,
        so that the bright wells of a plate are not all saturated.
        """
        for values, value in ((self._lows, low), (self._highs, high)):
            insort(values, float(value))
            if len(values) > _KEPT:
                del values[::2]
        bottom = self._lows[len(self._lows) // 2]
        top = max(self._highs[min(len(self._highs) - 1, int(len(self._highs) * 0.95))], bottom)
        if top <= bottom:
            top = bottom + max(abs(bottom) * 1e-3, 1e-6)
        if self.limits is not None:
            span = self.limits[1] - self.limits[0]
            if abs(bottom - self.limits[0]) < _MOVED * span and abs(top - self.limits[1]) < _MOVED * span:
                return False
        self.limits = (bottom, top)
        return True
