"""Kernel of the spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions import spots
from openhcs_jupyter.functions._cupy._arrays import Array, as_float, host, packages
from openhcs_jupyter.functions._cupy.labels import components
from openhcs_jupyter.pipeline.contracts import Context, kernel_for

if TYPE_CHECKING:
    import pandas as pd


@kernel_for(spots.find_spots, need=24.0)
def find_spots(
    stack: Array, radius: float = 2.0, min_contrast: float = 6.0, context: Context | None = None
) -> pd.DataFrame:
    return spots.spots_table(stack, radius, min_contrast, context, _spots)


def _spots(plane: Array, radius: float, min_contrast: float) -> NDArray[np.float64]:
    xp, ndimage = packages(plane)
    sigma = radius / np.sqrt(2)
    response = ndimage.gaussian_laplace(as_float(plane), sigma, mode="nearest") * -(sigma**2)
    response = response - xp.median(response)
    noise = spots.noise_of(float(xp.median(xp.abs(response))), float(plane.min()), float(plane.max()))
    highest = ndimage.maximum_filter(response, size=spots.peak_side(radius), mode="nearest")
    parts, count = components((response >= highest) & (response > min_contrast * noise))
    places = xp.flatnonzero(parts)
    of = parts.ravel()[places]
    size = xp.bincount(of, minlength=count + 1)[1:]
    y, x = (
        np.rint(host(xp.bincount(of, weights=place.astype(np.float64), minlength=count + 1)[1:] / size)).astype(int)
        for place in xp.divmod(places, plane.shape[1])
    )

    def read(values: Array, y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[Any]:
        found: NDArray[Any] = host(values[xp.asarray(y), xp.asarray(x)])
        return found

    return spots.peak_rows(y, x, plane.shape, lambda y, x: read(response, y, x), read(plane, y, x), noise)
