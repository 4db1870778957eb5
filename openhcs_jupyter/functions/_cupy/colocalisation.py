"""Kernel of the colocalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions import colocalisation as own
from openhcs_jupyter.functions._checks import label_plane
from openhcs_jupyter.functions._cupy._arrays import Array, host, packages, sums_by
from openhcs_jupyter.functions._cupy.thresholds import find_threshold
from openhcs_jupyter.functions.thresholds import Method
from openhcs_jupyter.pipeline.contracts import Context, kernel_for

if TYPE_CHECKING:
    import pandas as pd


@kernel_for(own.colocalisation, need=40.0)
def colocalisation(
    stack: Array,
    labels: Array | None = None,
    method: Method | float = "otsu",
    context: Context | None = None,
) -> pd.DataFrame:
    names = own.check_channels(stack, method, context)
    limits = [float(method) if isinstance(method, int | float) else find_threshold(plane, method) for plane in stack]
    places, of, numbers = _groups(stack, labels)

    def sums(i: int, j: int) -> NDArray[np.float64]:
        a, b = (stack[channel].ravel()[places].astype(np.float64) for channel in (i, j))
        return _pair_sums(a, b, of, (limits[i], limits[j]), len(numbers))

    return own.table_of(names, numbers, sums)


def _groups(stack: Array, labels: Array | None) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return the pixels of objects, the object of each from 0, and the labels of the objects."""
    xp = packages(stack).xp
    if labels is None:
        places = xp.arange(stack[0].size)
        return places, xp.zeros_like(places), np.zeros(1, dtype=np.int64)
    plane, names = label_plane(labels, stack.shape[1:], "colocalisation")
    flat = plane.ravel()
    places = xp.flatnonzero(flat)
    if places.size == 0:
        return places, places, np.zeros(0, dtype=np.int64)
    present, of = xp.unique(flat[places], return_inverse=True)
    numbers: NDArray[np.int64] = host(present).astype(np.int64)
    if names is not None:
        numbers = names[numbers]
    return places, of, numbers


def _pair_sums(a: Array, b: Array, of: Array, limits: tuple[float, float], count: int) -> NDArray[np.float64]:
    """Add up two channels by object, as `openhcs_jupyter.functions._colocalisation.pair_sums` does."""
    if count == 0:
        return np.zeros((10, 0))
    xp = packages(a).xp
    pixels = xp.bincount(of, minlength=count).astype(np.float64)
    # Whole numbers near the means: sums of integers stay exact, in whatever order they are added.
    one, other = (xp.rint(sums_by(of, values, count) / pixels) for values in (a, b))
    da, db = a - one[of], b - other[of]
    added = (da, db, da * da, db * db, da * db, xp.where(b > limits[1], a, 0.0), xp.where(a > limits[0], b, 0.0))
    rows = [pixels, one, other, *(sums_by(of, values, count) for values in added)]
    found: NDArray[np.float64] = host(xp.stack(rows))
    return found
