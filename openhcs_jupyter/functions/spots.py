"""Spots: small round objects of about one size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions._checks import Stack, channel_names, check_range, check_stack
from openhcs_jupyter.pipeline.contracts import Context, measure

if TYPE_CHECKING:
    import pandas as pd

_MAD = 1.4826
"""Times the median absolute deviation: the standard deviation of what is normally distributed."""
_ROUNDING = 1e-6


@measure(stack="channel", need=10.0)
def find_spots(
    stack: Stack, radius: float = 2.0, min_contrast: float = 6.0, context: Context | None = None
) -> pd.DataFrame:
    """Find bright spots in each channel: peaks of the Laplacian of a gaussian (LoG).

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        One plane a channel, any integer or floating-point type.
    radius
        Radius of the spots in pixels. Of spots nearer to each other than this the strongest is found.
    min_contrast
        How many times the noise a spot's response must be above the background's. The noise is that of the filtered
        plane: 1.4826 times the median absolute deviation.
    context
        Names the channels; without it they are numbered from 0.

    Returns
    -------
    DataFrame
        One row a spot, by channel and from top to bottom: ``channel``; ``y``, ``x`` in pixels, to a fraction;
        ``intensity`` of the brightest pixel's place in the plane; ``contrast``: its response, in times the noise.
        Without spots the same columns and no rows.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    The filter is `scipy.ndimage.gaussian_laplace` with a standard deviation of ``radius / sqrt(2)``, at which a disk of
    this radius responds most (Lindeberg, 1998), and with the border repeated. The peak is refined by a parabola along
    each axis. Computed in float32, float64 planes in float64.
    """
    import pandas as pd

    check_stack(stack, "find_spots")
    check_range("find_spots", "radius", radius, 0.7, 1000)
    check_range("find_spots", "min_contrast", min_contrast, 0)
    tables = []
    for name, plane in zip(channel_names(context, len(stack)), stack, strict=True):
        found = _spots(plane, radius, min_contrast)
        tables.append(pd.DataFrame(found, columns=["y", "x", "intensity", "contrast"]))
        tables[-1].insert(0, "channel", pd.Series([name] * len(found), dtype=object))
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


def _spots(plane: Stack, radius: float, min_contrast: float) -> NDArray[np.float64]:
    import cv2

    response = -laplacian_of_gaussian(plane, radius / np.sqrt(2))
    response -= np.median(response)
    # Where the background is even only rounding is left of the noise.
    brightest = float(max(abs(float(plane.min())), abs(float(plane.max()))))
    noise = max(_MAD * float(np.median(np.abs(response))), _ROUNDING * brightest)
    side = 2 * max(1, round(radius)) + 1
    highest = cv2.dilate(response, np.ones((side, side), dtype=np.uint8), borderType=cv2.BORDER_REPLICATE)
    peaks = (response >= highest) & (response > min_contrast * noise)
    _, _, _, centres = cv2.connectedComponentsWithStats(peaks.view(np.uint8), connectivity=8)
    x, y = np.rint(centres[1:]).astype(np.int64).T
    rows = np.stack(
        [
            y + _refined(response, y, x, 0),
            x + _refined(response, y, x, 1),
            plane[y, x].astype(np.float64),
            response[y, x] / noise if noise else np.zeros(len(y)),
        ],
        axis=1,
    )
    return rows[np.lexsort((x, y))]


def laplacian_of_gaussian(plane: Stack, sigma: float) -> Stack:
    """Filter one plane as `scipy.ndimage.gaussian_laplace` with mode ``nearest`` does, times `sigma` squared.

    Returns
    -------
    ndarray of shape (Y, X)
        float32, or float64 of a float64 plane. Below 0 within bright spots.
    """
    import cv2

    values = np.ascontiguousarray(plane, dtype=np.float64 if plane.dtype == np.float64 else np.float32)
    reach = int(4 * sigma + 0.5)
    places = np.arange(-reach, reach + 1, dtype=np.float64)
    gaussian = np.exp(-0.5 * (places / sigma) ** 2)
    gaussian /= gaussian.sum()
    second = ((places / sigma) ** 2 - 1) * gaussian
    along_x = cv2.sepFilter2D(values, -1, second, gaussian, borderType=cv2.BORDER_REPLICATE)
    along_y = cv2.sepFilter2D(values, -1, gaussian, second, borderType=cv2.BORDER_REPLICATE)
    total: Stack = along_x + along_y
    return total


def _refined(response: Stack, y: NDArray[np.int64], x: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
    """Return by what fraction of a pixel the top of a parabola through three pixels lies beside the middle one."""
    place, last = (y, x)[axis], response.shape[axis] - 1
    step = np.array([1, 0]) if axis == 0 else np.array([0, 1])
    inside = (place > 0) & (place < last)
    y, x = np.where(inside, y, step[0]), np.where(inside, x, step[1])
    if last < 2:
        return np.zeros(len(place))
    before = response[y - step[0], x - step[1]].astype(np.float64)
    middle = response[y, x].astype(np.float64)
    after = response[y + step[0], x + step[1]].astype(np.float64)
    bend = before - 2 * middle + after
    inside &= bend < 0
    shift = 0.5 * (before - after) / np.where(inside, bend, -1.0)
    return np.where(inside, np.clip(shift, -0.5, 0.5), 0.0)
