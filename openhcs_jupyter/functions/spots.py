"""Spots: small round objects of about one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
    return spots_table(stack, radius, min_contrast, context, _spots)


def spots_table(
    stack: Stack,
    radius: float,
    min_contrast: float,
    context: Context | None,
    find: Callable[[Stack, float, float], NDArray[np.float64]],
) -> pd.DataFrame:
    """Make the table of `find_spots`, whose parameters these are; `find` finds the rows of one plane.

    Raises
    ------
    UsageError
        As of `find_spots`.
    """
    import pandas as pd

    check_stack(stack, "find_spots")
    check_range("find_spots", "radius", radius, 0.7, 1000)
    check_range("find_spots", "min_contrast", min_contrast, 0)
    tables = []
    for name, plane in zip(channel_names(context, len(stack)), stack, strict=True):
        found = find(plane, radius, min_contrast)
        tables.append(pd.DataFrame(found, columns=["y", "x", "intensity", "contrast"]))
        tables[-1].insert(0, "channel", pd.Series([name] * len(found), dtype=object))
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


def _spots(plane: Stack, radius: float, min_contrast: float) -> NDArray[np.float64]:
    import cv2

    response = -laplacian_of_gaussian(plane, radius / np.sqrt(2))
    response -= np.median(response)
    noise = noise_of(float(np.median(np.abs(response))), float(plane.min()), float(plane.max()))
    side = peak_side(radius)
    highest = cv2.dilate(response, np.ones((side, side), dtype=np.uint8), borderType=cv2.BORDER_REPLICATE)
    peaks = (response >= highest) & (response > min_contrast * noise)
    _, _, _, centres = cv2.connectedComponentsWithStats(peaks.view(np.uint8), connectivity=8)
    x, y = np.rint(centres[1:]).astype(np.int64).T
    return peak_rows(y, x, plane.shape, lambda y, x: response[y, x], plane[y, x], noise)


def noise_of(deviation: float, darkest: float, brightest: float) -> float:
    """Return the noise of a filtered plane from its median absolute deviation and the plane's own extremes."""
    # Where the background is even only rounding is left of the noise.
    return max(_MAD * deviation, _ROUNDING * max(abs(darkest), abs(brightest)))


def peak_side(radius: float) -> int:
    """Return the side of the square in which a peak is the highest."""
    return 2 * max(1, round(radius)) + 1


def peak_rows(
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    shape: tuple[int, ...],
    response: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[Any]],
    intensity: NDArray[Any],
    noise: float,
) -> NDArray[np.float64]:
    """Make the rows of `find_spots` for one plane.

    Parameters
    ----------
    y, x
        Pixels of the peaks.
    shape
        Of the plane.
    response
        Reads the filtered plane at pixels.
    intensity
        The plane itself at the peaks.
    noise
        Of the filtered plane.
    """
    middle = response(y, x).astype(np.float64)
    rows = np.stack(
        [
            y + _refined(response, middle, y, x, 0, shape[0] - 1),
            x + _refined(response, middle, y, x, 1, shape[1] - 1),
            intensity.astype(np.float64),
            middle / noise if noise else np.zeros(len(y)),
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


def _refined(
    response: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[Any]],
    middle: NDArray[np.float64],
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    axis: int,
    last: int,
) -> NDArray[np.float64]:
    """Return by what fraction of a pixel the top of a parabola through three pixels lies beside the middle one."""
    place = (y, x)[axis]
    inside = (place > 0) & (place < last)
    shift = np.zeros(len(place))
    if not inside.any():
        return shift
    y, x = y[inside], x[inside]
    down, right = (1, 0) if axis == 0 else (0, 1)
    before = response(y - down, x - right).astype(np.float64)
    after = response(y + down, x + right).astype(np.float64)
    bend = before - 2 * middle[inside] + after
    peaked = bend < 0
    shift[inside] = np.where(peaked, np.clip(0.5 * (before - after) / np.where(peaked, bend, -1.0), -0.5, 0.5), 0.0)
    return shift
