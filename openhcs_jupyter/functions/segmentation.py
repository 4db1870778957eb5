"""Segmentation: thresholds and nuclei."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, to_type
from openhcs_jupyter.functions.filters import blur_plane
from openhcs_jupyter.functions.histogram import has_histogram, histogram
from openhcs_jupyter.pipeline.contracts import image

Method = Literal["otsu", "li", "triangle"]
METHODS = ("otsu", "li", "triangle")
"""Names of thresholds."""


@image(depth="same", dtype="uint8", need=2.0)
def threshold(stack: Stack, method: Method | float = "otsu", per: Literal["stack", "plane"] = "stack") -> Stack:
    """Mark the pixels that are brighter than a threshold.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    method
        ``"otsu"``, ``"li"`` or ``"triangle"``, or the threshold itself as a number.
    per
        Find one threshold for the whole stack, or one for each plane.

    Returns
    -------
    ndarray of shape (N, Y, X), uint8
        1 where a pixel is above the threshold, else 0. All 0 in a constant image.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    The methods are those of `skimage.filters`: Otsu (1979), Li and Tam (1998), Zack et al. (1977). Thresholds of uint8
    and uint16 are found from the exact histogram.
    """
    check_stack(stack, "threshold")
    check_threshold(method, per)
    if isinstance(method, int | float):
        return (stack > method).view(np.uint8)
    if per == "stack":
        return (stack > find_threshold(stack, method)).view(np.uint8)
    return np.stack([plane > find_threshold(plane, method) for plane in stack]).view(np.uint8)


def check_threshold(method: Method | float, per: str) -> None:
    """Refuse parameters that `threshold` does not take."""
    if not isinstance(method, int | float) and method not in METHODS:
        raise UsageError(f"threshold: method is {method!r}", f"It is one of {', '.join(METHODS)}, or a number.")
    if per not in ("stack", "plane"):
        raise UsageError(f"threshold: per is {per!r}", 'It is "stack" or "plane".')


def find_threshold(pixels: Stack, method: Method = "otsu") -> float:
    """Find the value above which pixels are foreground; of a constant image its own value, so nothing is above.

    Parameters
    ----------
    pixels
        Finite values of any shape with at least one axis.
    method
        As in `threshold`.

    Returns
    -------
    float
        Equal to the function of `skimage.filters` of this name, up to float64 rounding.
    """
    if has_histogram(pixels.dtype):
        return threshold_of(histogram(pixels), method)
    from skimage import filters

    low, high = float(pixels.min()), float(pixels.max())
    # What rounding left of a constant has no histogram of 256 bins either.
    if high - low <= 512 * np.finfo(pixels.dtype if pixels.dtype.kind == "f" else np.float64).eps * max(-low, high):
        return high
    functions: dict[str, Any] = {
        "otsu": filters.threshold_otsu,
        "li": filters.threshold_li,
        "triangle": filters.threshold_triangle,
    }
    return float(functions[method](pixels.ravel()))


@image(depth="same", dtype="same", need=14.0)
def segment_nuclei(
    stack: Stack,
    sigma: float = 1.0,
    method: Method | float = "otsu",
    min_area: float = 30.0,
    max_area: float | None = None,
    seed_distance: int = 5,
    min_contrast: float = 3.0,
) -> tuple[Stack, NDArray[np.int32]]:
    """Find nuclei, separate those that touch, and number them.

    Each plane is blurred and thresholded, holes are filled, and objects that have several peaks of the distance from
    their edge are divided by a watershed.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Nuclei brighter than their background; any integer or floating-point type.
    sigma
        Standard deviation in pixels of the gaussian that smooths before the threshold; 0 leaves it out.
    method
        How the threshold is found in each plane, as in `threshold`, or the threshold itself.
    min_area
        Objects smaller than this, in pixels, are left out.
    max_area
        Objects larger than this, in pixels, are left out; None keeps them.
    seed_distance
        Peaks of the distance from the edge within so many pixels count as one nucleus; about half a nucleus's radius.
    min_contrast
        The foreground's mean must lie above the background's by so many of the background's standard deviations, else
        the plane holds no objects: without nuclei a threshold divides nothing but noise. 0 accepts anything.

    Returns
    -------
    stack : ndarray of shape (N, Y, X)
        The stack as it came.
    labels : ndarray of shape (N, Y, X), int32
        0 is background. In each plane nuclei are numbered from 1 in the order in which rows meet them. All 0 where
        there are none.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    Connected components (8 neighbours) and the distance transform are OpenCV's, the watershed on the distance is
    scikit-image's and runs only where nuclei touch.
    """
    check_stack(stack, "segment_nuclei")
    check_range("segment_nuclei", "sigma", sigma, 0, 1000)
    check_range("segment_nuclei", "min_area", min_area, 0)
    check_range("segment_nuclei", "seed_distance", seed_distance, 1, 1000)
    if max_area is not None:
        check_range("segment_nuclei", "max_area", max_area, min_area)
    if not isinstance(method, int | float) and method not in METHODS:
        raise UsageError(f"segment_nuclei: method is {method!r}", f"It is one of {', '.join(METHODS)}, or a number.")
    labels = np.zeros(stack.shape, dtype=np.int32)
    for plane, out in zip(stack, labels, strict=True):
        mask = _foreground(plane, sigma, method, min_contrast)
        if mask is not None:
            fill_holes(mask)
            _divide(mask, out, min_area, seed_distance)
            number_objects(out, min_area, max_area)
    return stack, labels


def _foreground(plane: Stack, sigma: float, method: Method | float, min_contrast: float) -> NDArray[np.uint8] | None:
    """Return the mask of what may be nuclei, or None where nothing stands out."""
    smooth = plane if sigma == 0 else to_type(blur_plane(plane, sigma), plane.dtype)
    if has_histogram(smooth.dtype):
        counts = histogram(smooth)
        limit = float(method) if isinstance(method, int | float) else threshold_of(counts, method)
        values: Stack = np.arange(len(counts))
        weights: Stack = counts
    else:
        limit = float(method) if isinstance(method, int | float) else find_threshold(smooth, method)
        values, weights = smooth.ravel(), np.ones(smooth.size)
    bright = values > limit
    if not weights[bright].any() or not _stands_out(values, weights, bright, min_contrast):
        return None
    return (smooth > limit).view(np.uint8)


def _stands_out(values: Stack, weights: Stack, bright: NDArray[np.bool_], min_contrast: float) -> bool:
    dark = ~bright
    if min_contrast == 0 or not weights[dark].any():
        return True
    foreground = np.average(values[bright], weights=weights[bright])
    background = np.average(values[dark], weights=weights[dark])
    spread = np.sqrt(np.average((values[dark] - background) ** 2, weights=weights[dark]))
    return bool(foreground - background >= min_contrast * spread)


def fill_holes(mask: NDArray[np.uint8]) -> None:
    """Set what 4-connected background does not join to the plane's border, in place."""
    import cv2

    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mask, contours, -1, 1, cv2.FILLED, lineType=cv2.LINE_8)


def _divide(mask: NDArray[np.uint8], out: NDArray[np.int32], min_area: float, seed_distance: int) -> None:
    """Write the components of `mask` into `out`, those with several seeds divided."""
    import cv2

    from openhcs_jupyter.functions import _kernels

    count, components = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)
    out[...] = components
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    # Smoothed, or every corner of a pixelated outline raises a ridge with peaks of its own.
    ridge = cv2.GaussianBlur(distance, (9, 9), 1.0)
    around = np.ones((2 * seed_distance + 1, 2 * seed_distance + 1), dtype=np.uint8)
    peaks = ((ridge >= cv2.dilate(ridge, around)) & mask.view(np.bool_)).view(np.uint8)
    seed_count, seeds = cv2.connectedComponents(peaks, connectivity=8, ltype=cv2.CV_32S)
    seeds_of = np.bincount(_kernels.owners(seeds, components, seed_count)[1:], minlength=count)
    extents = _kernels.extents(components, count)
    for component in np.flatnonzero((seeds_of > 1) & (extents[:, 0] >= 2 * min_area)):
        _, _, top, left, bottom, right = extents[component]
        window = np.s_[top:bottom, left:right]
        own = components[window] == component
        parts = _watershed(ridge[window], np.where(own, seeds[window], 0), own)
        # Seeds are numbered over the plane: above `count` they are unlike any component.
        out[window][own] = parts[own] + count


def _watershed(ridge: NDArray[np.float32], seeds: NDArray[np.int32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    from skimage.segmentation import watershed

    parts: NDArray[np.int32] = watershed(-ridge, seeds, mask=mask)
    return parts


def number_objects(labels: NDArray[np.int32], min_area: float, max_area: float | None) -> None:
    """Drop labels by area and number the others from 1 in raster order, in place."""
    from openhcs_jupyter.functions import _kernels

    extents = _kernels.extents(labels, int(labels.max()) + 1)
    area, first = extents[:, 0], extents[:, 1]
    keep = area >= max(min_area, 1)
    if max_area is not None:
        keep &= area <= max_area
    kept = np.flatnonzero(keep)
    new = np.zeros(len(area), dtype=np.int32)
    new[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1, dtype=np.int32)
    _kernels.renumber(labels, new)


def threshold_of(counts: NDArray[np.int64], method: Method) -> float:
    """Find the threshold of pixels from their counts by value, as `find_threshold` does."""
    present = np.flatnonzero(counts)
    first, last = int(present[0]), int(present[-1])
    if first == last:
        return float(first)
    find = {"otsu": _otsu, "li": _li, "triangle": _triangle}[method]
    return first + find(counts[first : last + 1].astype(np.float64))


def _otsu(counts: NDArray[np.float64]) -> float:
    values = np.arange(len(counts), dtype=np.float64)
    below = np.cumsum(counts)
    moment = np.cumsum(counts * values)
    low = below[:-1]
    high = below[-1] - low
    difference = moment[:-1] / low - (moment[-1] - moment[:-1]) / high
    return float(np.argmax(low * high * difference**2))


def _li(counts: NDArray[np.float64]) -> float:
    values = np.arange(len(counts), dtype=np.float64)
    below = np.cumsum(counts)
    moment = np.cumsum(counts * values)
    # Half the smallest difference of two pixels, as scikit-image sets it.
    tolerance = float(np.diff(np.flatnonzero(counts)).min()) / 2
    current, following = -2 * tolerance, moment[-1] / below[-1]
    while abs(following - current) > tolerance:
        current = following
        last = min(int(np.floor(current)), len(counts) - 1)
        dark = moment[last] / below[last]
        bright = (moment[-1] - moment[last]) / (below[-1] - below[last])
        if dark == 0:
            break
        following = (dark - bright) / (np.log(dark) - np.log(bright))
    return float(following)


def _triangle(counts: NDArray[np.float64]) -> float:
    peak = int(np.argmax(counts))
    last = len(counts) - 1
    flip = peak < last - peak
    height = counts[peak]
    if flip:
        counts, peak = counts[::-1], last - peak
    normal = np.hypot(height, peak)
    x = np.arange(peak, dtype=np.float64)
    length = height / normal * x - peak / normal * counts[:peak]
    level = int(np.argmax(length))
    return float(last - level if flip else level)
