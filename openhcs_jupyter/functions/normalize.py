"""Normalisation of intensities."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack
from openhcs_jupyter.functions.histogram import has_histogram, histogram, percentiles
from openhcs_jupyter.pipeline.contracts import Contract, image

if TYPE_CHECKING:
    import pandas as pd

TOP = 65535.0
"""What the upper limit becomes."""


@image(depth="same", dtype="uint16", need=4.0)
def percentile_normalize(
    stack: Stack, low: float = 1.0, high: float = 99.8, per: Literal["stack", "plane"] = "stack"
) -> Stack:
    """Stretch intensities so that the `low` percentile becomes 0 and the `high` percentile 65535.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    low
        The percentile that becomes 0, interpolated linearly as `numpy.percentile` does; at least 0 and below `high`.
    high
        The percentile that becomes 65535; at most 100.
    per
        ``"stack"`` takes the percentiles over all planes, so that planes stay comparable; ``"plane"`` over each.

    Returns
    -------
    ndarray of shape (N, Y, X), uint16
        Values outside the percentiles are clipped. Within 1 of ``(v - p_low) * 65535 / (p_high - p_low)``, rounded.
        All zeros where the two percentiles are equal, as in a constant image.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    The percentiles of uint8 and uint16 pixels come from their histogram and are exact.
    """
    check_stack(stack, "percentile_normalize")
    check_percentages("percentile_normalize", low, high)
    if per == "stack":
        return _stretch(stack, low, high)
    if per == "plane":
        return np.concatenate([_stretch(plane[None], low, high) for plane in stack])
    raise UsageError(f"percentile_normalize: per is {per!r}", 'It is "stack" or "plane".')


def _stretch(stack: Stack, low: float, high: float) -> Stack:
    counted = has_histogram(stack.dtype)
    bottom, top = percentiles(histogram(stack), (low, high)) if counted else np.percentile(stack, (low, high))
    return _stretch_between(stack, float(bottom), float(top))


def _stretch_between(stack: Stack, bottom: float, top: float) -> Stack:
    import cv2

    span = top - bottom
    if span <= 0:
        return np.zeros(stack.shape, dtype=np.uint16)
    if not has_histogram(stack.dtype):
        # Subtracted in float64 first: large values with a small spread would lose it in float32.
        stack = np.clip((stack.astype(np.float64) - bottom) / span, 0, 1).astype(np.float32)
        bottom, span = 0.0, 1.0
    flat = np.ascontiguousarray(stack).reshape(-1, stack.shape[-1])
    scale = TOP / span
    if span < 2 and flat.dtype.kind == "u":
        # OpenCV rounds by way of 32 bits, which a bright pixel would overflow.
        flat = np.minimum(flat, flat.dtype.type(np.clip(np.ceil(top), 0, np.iinfo(flat.dtype).max)))
    # OpenCV rounds and saturates, which is the clipping at both percentiles.
    out: Stack = cv2.addWeighted(flat, scale, flat, 0.0, -bottom * scale, dtype=cv2.CV_16U)
    return out.reshape(stack.shape)


class Counts(NamedTuple):
    """What `PlatePercentiles` holds of the pixels that it has seen: how many there are of each value."""

    first: int
    """The value that the first count is of."""
    counts: NDArray[np.int64]
    dtype: str
    """Of the pixels; empty before the first."""


class PlatePercentiles:
    """Find percentiles of each channel over a whole plate. A reducer.

    ``Step(PlatePercentiles, outputs=Table("limits"))`` makes a table with one row a channel: the columns ``low`` and
    ``high``, after ``channel`` where there are several. `normalize_with` stretches every image between them, so that
    wells stay comparable.

    Parameters
    ----------
    low, high
        Percentages, ``0 <= low < high <= 100``.

    Raises
    ------
    UsageError
        If a percentage does not fit, pixels are neither uint8 nor uint16, or some are of the one type and some of the
        other.

    Notes
    -----
    Exact: equal to `numpy.percentile` over all pixels, from their histogram.
    """

    __openhcs__: ClassVar[Contract] = Contract(kind="reducer", need=1.0)

    def __init__(self, low: float = 1.0, high: float = 99.8) -> None:
        check_percentages("PlatePercentiles", low, high)
        self.low = low
        self.high = high

    def init(self) -> Counts:
        """Return the counts of no pixels."""
        return Counts(0, np.zeros(0, dtype=np.int64), "")

    def update(self, state: Counts, stack: Stack) -> Counts:
        """Count the pixels of a stack ``(N, Y, X)``."""
        check_stack(stack, "PlatePercentiles")
        if not has_histogram(stack.dtype):
            raise UsageError(
                f"PlatePercentiles: pixels are {stack.dtype}; it takes uint8 and uint16",
                "Take the percentiles before steps that return another type.",
            )
        counts = histogram(stack)
        present = np.flatnonzero(counts)
        # Cameras fill a part of the range: only that is held.
        first, last = int(present[0]), int(present[-1])
        return self.merge(state, Counts(first, counts[first : last + 1], str(stack.dtype)))

    def merge(self, state: Counts, other: Counts) -> Counts:
        """Add up two states."""
        if not state.dtype or not other.dtype:
            return state if state.dtype else other
        if state.dtype != other.dtype:
            raise UsageError(f"PlatePercentiles: some pixels are {state.dtype}, others {other.dtype}")
        first = min(state.first, other.first)
        last = max(part.first + len(part.counts) for part in (state, other))
        counts = np.zeros(last - first, dtype=np.int64)
        for part in (state, other):
            start = part.first - first
            counts[start : start + len(part.counts)] += part.counts
        return Counts(first, counts, state.dtype)

    def finish(self, state: Counts) -> dict[str, float]:
        """Return the two percentiles."""
        if not state.dtype:
            raise UsageError("PlatePercentiles: it was given no pixels")
        low, high = percentiles(state.counts, (self.low, self.high)) + state.first
        return {"low": float(low), "high": float(high)}


@image(depth="same", dtype="uint16", need=4.0, by_plane=True)
def normalize_with(stack: Stack, limits: pd.DataFrame) -> Stack:
    """Stretch intensities between limits that were found before: `low` becomes 0 and `high` 65535.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    limits
        A table with the columns ``low`` and ``high`` and one row, as `PlatePercentiles` makes for each channel.

    Returns
    -------
    ndarray of shape (N, Y, X), uint16
        Values outside the limits are clipped. Within 1 of ``(v - low) * 65535 / (high - low)``, rounded. All zeros
        where both limits are equal.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or the limits are not one row with ``low`` at most ``high``.
    """
    check_stack(stack, "normalize_with")
    return _stretch_between(stack, *limits_of(limits))


def limits_of(limits: pd.DataFrame) -> tuple[float, float]:
    """Read the two limits of `normalize_with` from their table.

    Raises
    ------
    UsageError
        If it is not one row with ``low`` at most ``high``.
    """
    missing = [name for name in ("low", "high") if name not in limits.columns]
    if missing or len(limits) != 1:
        have = ", ".join(map(str, limits.columns))
        raise UsageError(
            f"normalize_with: limits have {len(limits)} rows and the columns {have}; it takes one row, low and high",
            'Make them with PlatePercentiles in the same channels, and hand them over with stack="z".',
        )
    low, high = float(limits["low"].iloc[0]), float(limits["high"].iloc[0])
    if not low <= high:
        raise UsageError(f"normalize_with: low is {low:g} and high is {high:g}; low must not be above high")
    return low, high


def check_percentages(function: str, low: float, high: float) -> None:
    """Refuse percentages that are not ``0 <= low < high <= 100``."""
    check_range(function, "low", low, 0, 100)
    check_range(function, "high", high, 0, 100)
    if low >= high:
        raise UsageError(f"{function}: low is {low} and high is {high}; low must be below high")
