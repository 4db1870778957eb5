"""Counts of 8-bit and 16-bit pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions._cupy._arrays import Array, host, packages


def histogram(pixels: Array) -> NDArray[np.int64]:
    """Count each value of uint8 or uint16 pixels, as `openhcs_jupyter.functions.histogram.histogram` does."""
    bins = 256 if pixels.dtype == np.uint8 else 65536
    counts: NDArray[np.int64] = host(packages(pixels).xp.bincount(pixels.reshape(-1), minlength=bins))
    return counts.astype(np.int64, copy=False)
