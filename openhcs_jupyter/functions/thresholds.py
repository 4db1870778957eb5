"""Thresholds: one for a stack or a plane, or one that follows the background."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_stack
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


@image(depth="same", dtype="uint8", need=6.0, by_plane=True)
def adaptive_threshold(
    stack: Stack, block_size: int = 51, offset: float = 0.0, method: Literal["gaussian", "mean"] = "gaussian"
) -> Stack:
    """Mark the pixels that are brighter than their neighbourhood.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    block_size
        Side of the neighbourhood in pixels, odd and at least 3; wider than the objects.
    offset
        Subtracted from the neighbourhood's mean. A negative one asks for pixels that stand out by so much, which keeps
        the noise of an even background away.
    method
        ``"gaussian"`` weighs near pixels more, with a standard deviation of a sixth of the block; ``"mean"`` weighs all
        pixels of the block alike.

    Returns
    -------
    ndarray of shape (N, Y, X), uint8
        1 where a pixel is above its threshold, else 0.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    As `skimage.filters.threshold_local` with mode ``nearest``, but computed in float32 (float64 planes in float64): it
    may decide otherwise where a pixel is within 1e-5 of its threshold, relative to the brightest.
    """
    check_stack(stack, "adaptive_threshold")
    check_neighbourhood(block_size, offset, method)
    out = np.empty(stack.shape, dtype=np.uint8)
    for plane, target in zip(stack, out, strict=True):
        target[...] = plane > _neighbourhood(plane, int(block_size), method) - offset
    return out


def check_neighbourhood(block_size: int, offset: float, method: str) -> None:
    """Refuse parameters that `adaptive_threshold` does not take."""
    if block_size < 3 or block_size % 2 != 1:
        raise UsageError(f"adaptive_threshold: block_size is {block_size!r}; it must be odd and at least 3")
    if not np.isfinite(offset):
        raise UsageError(f"adaptive_threshold: offset is {offset!r}; it must be a finite number")
    if method not in ("gaussian", "mean"):
        raise UsageError(f"adaptive_threshold: method is {method!r}", 'It is "gaussian" or "mean".')


def _neighbourhood(plane: Stack, side: int, method: str) -> Stack:
    import cv2

    if method == "gaussian":
        return blur_plane(plane, (side - 1) / 6)
    values = np.ascontiguousarray(plane, dtype=np.float64 if plane.dtype == np.float64 else np.float32)
    mean: Stack = cv2.blur(values, (side, side), borderType=cv2.BORDER_REPLICATE)
    return mean


def check_threshold(method: Method | float, per: str) -> None:
    """Refuse parameters that `threshold` does not take."""
    check_method("threshold", method)
    if per not in ("stack", "plane"):
        raise UsageError(f"threshold: per is {per!r}", 'It is "stack" or "plane".')


def check_method(function: str, method: Method | float) -> None:
    """Refuse a threshold that is neither a number nor one of `METHODS`."""
    if not isinstance(method, int | float) and method not in METHODS:
        raise UsageError(f"{function}: method is {method!r}", f"It is one of {', '.join(METHODS)}, or a number.")


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
