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
_METHODS = ("otsu", "li", "triangle")


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
    if isinstance(method, int | float):
        return (stack > method).view(np.uint8)
    if method not in _METHODS:
        raise UsageError(f"threshold: method is {method!r}", f"It is one of {', '.join(_METHODS)}, or a number.")
    if per == "stack":
        return (stack > find_threshold(stack, method)).view(np.uint8)
    if per == "plane":
        return np.stack([plane > find_threshold(plane, method) for plane in stack]).view(np.uint8)
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
    if not has_histogram(pixels.dtype):
        return _threshold_by_skimage(pixels, method)
    counts = histogram(pixels)
    present = np.flatnonzero(counts)
    first, last = int(present[0]), int(present[-1])
    if first == last:
        return float(first)
    counts = counts[first : last + 1]
    find = {"otsu": _otsu, "li": _li, "triangle": _triangle}[method]
    return first + find(counts.astype(np.float64))


@image(depth="same", dtype="same", need=16.0)
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
    min_area, max_area
        Objects smaller or larger than this, in pixels, are left out.
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
    if not isinstance(method, int | float) and method not in _METHODS:
        raise UsageError(f"segment_nuclei: method is {method!r}", f"It is one of {', '.join(_METHODS)}, or a number.")
    labels = np.zeros(stack.shape, dtype=np.int32)
    for plane, out in zip(stack, labels, strict=True):
        mask = _foreground(plane, sigma, method, min_contrast)
        if mask is not None:
            _fill_holes(mask)
            _divide(mask, out, min_area, seed_distance)
            _number(out, min_area, max_area)
    return stack, labels


def _foreground(plane: Stack, sigma: float, method: Method | float, min_contrast: float) -> NDArray[np.uint8] | None:
    import cv2

    smooth = plane if sigma == 0 else to_type(blur_plane(plane, sigma), plane.dtype)
    limit = float(method) if isinstance(method, int | float) else find_threshold(smooth, method)
    mask = (smooth > limit).view(np.uint8)
    count = int(cv2.countNonZero(mask))
    if count == 0:
        return None
    if min_contrast > 0 and count < mask.size:
        values = smooth if smooth.dtype in (np.uint8, np.uint16, np.float32) else smooth.astype(np.float64)
        bright = cv2.mean(values, mask)[0]
        dark, spread = (float(part[0, 0]) for part in cv2.meanStdDev(values, mask=1 - mask))
        if bright - dark < min_contrast * spread:
            return None
    return mask


def _fill_holes(mask: NDArray[np.uint8]) -> None:
    """Set what 4-connected background does not join to the plane's border, in place."""
    import cv2

    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mask, contours, -1, 1, cv2.FILLED, lineType=cv2.LINE_8)


def _divide(mask: NDArray[np.uint8], out: NDArray[np.int32], min_area: float, seed_distance: int) -> None:
    """Write the components of `mask` into `out`, those with several seeds divided."""
    import cv2

    count, components, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)
    out[...] = components
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    # Smoothed, or every corner of a pixelated outline raises a ridge with peaks of its own.
    ridge = cv2.GaussianBlur(distance, (0, 0), 1.0)
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * seed_distance + 1, 2 * seed_distance + 1))
    peaks = ((ridge >= cv2.dilate(ridge, around)) & (mask > 0)).view(np.uint8)
    _, seeds, _, centres = cv2.connectedComponentsWithStats(peaks, connectivity=8, ltype=cv2.CV_32S)
    at = np.flatnonzero(seeds)
    owner = np.zeros(len(centres), dtype=np.int64)
    owner[seeds.ravel()[at]] = components.ravel()[at]
    per_component = np.bincount(owner[1:], minlength=count)
    for component in np.flatnonzero((per_component > 1) & (stats[:, cv2.CC_STAT_AREA] >= 2 * min_area)):
        left, top, width, height = stats[component, :4]
        window = np.s_[top : top + height, left : left + width]
        own = components[window] == component
        parts = _watershed(ridge[window], np.where(own, seeds[window], 0), own)
        # Seeds are numbered over the plane: above `count` they are unlike any component.
        out[window][own] = parts[own] + count


def _watershed(ridge: NDArray[np.float32], seeds: NDArray[np.int32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    from skimage.segmentation import watershed

    parts: NDArray[np.int32] = watershed(-ridge, seeds, mask=mask)
    return parts


def _number(labels: NDArray[np.int32], min_area: float, max_area: float | None) -> None:
    """Drop labels by area and number the others from 1 in raster order, in place."""
    flat = labels.reshape(-1)
    at = np.flatnonzero(flat)
    values = flat[at]
    area = np.bincount(values)
    keep = area >= max(min_area, 1)
    if max_area is not None:
        keep &= area <= max_area
    first = np.full(len(area), flat.size)
    # Assigned from the last pixel to the first, so that the first one stays.
    first[values[::-1]] = at[::-1]
    kept = np.flatnonzero(keep)
    new = np.zeros(len(area), dtype=np.int32)
    new[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1, dtype=np.int32)
    flat[at] = new[values]


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


def _threshold_by_skimage(pixels: Stack, method: Method) -> float:
    from skimage import filters

    low, high = pixels.min(), pixels.max()
    if low == high:
        return float(low)
    functions: dict[str, Any] = {
        "otsu": filters.threshold_otsu,
        "li": filters.threshold_li,
        "triangle": filters.threshold_triangle,
    }
    return float(functions[method](pixels))
