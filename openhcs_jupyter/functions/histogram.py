"""Exact statistics of 8-bit and 16-bit pixels from their histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions._checks import Stack

_EXACT_FLOAT32 = 1 << 24


def has_histogram(dtype: np.dtype[np.generic]) -> bool:
    """Tell whether pixels of this type are counted value by value: uint8 and uint16."""
    return dtype in (np.uint8, np.uint16)


def histogram(pixels: Stack) -> NDArray[np.int64]:
    """Count each value of uint8 or uint16 pixels.

    Returns
    -------
    ndarray of shape (256,) or (65536,)
        The number of pixels of each value.
    """
    import cv2

    bins = 256 if pixels.dtype == np.uint8 else 65536
    rows = np.ascontiguousarray(pixels).reshape(-1, pixels.shape[-1])
    counts = np.zeros(bins, dtype=np.int64)
    # OpenCV counts in float32, which is exact up to 2**24 pixels a call.
    height = max(1, _EXACT_FLOAT32 // rows.shape[1])
    for start in range(0, rows.shape[0], height):
        part = cv2.calcHist([rows[start : start + height]], [0], None, [bins], [0, bins])
        counts += part.ravel().astype(np.int64)
    return counts


def percentiles(counts: NDArray[np.int64], q: Sequence[float]) -> NDArray[np.float64]:
    """Compute percentiles from counts by value, interpolated linearly between pixels as `numpy.percentile` does.

    Parameters
    ----------
    counts
        Number of pixels of each value 0, 1, 2, ...
    q
        Percentages between 0 and 100.

    Returns
    -------
    ndarray of shape (len(q),)
        Equal to `numpy.percentile` on the pixels, up to float64 rounding.
    """
    reached = np.cumsum(counts)
    position = (reached[-1] - 1) * (np.asarray(q, dtype=np.float64) / 100)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, reached[-1] - 1)
    low = np.searchsorted(reached, below, side="right").astype(np.float64)
    high = np.searchsorted(reached, above, side="right").astype(np.float64)
    values: NDArray[np.float64] = low + (high - low) * (position - below)
    return values
