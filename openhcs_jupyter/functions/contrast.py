"""Contrast of planes, evened out over the whole of them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_stack, to_type
from openhcs_jupyter.functions.histogram import has_histogram, histogram
from openhcs_jupyter.pipeline.contracts import image


@image(depth="same", dtype="same", need=8.0)
def equalize_histogram(stack: Stack, per: Literal["stack", "plane"] = "stack") -> Stack:
    """Spread intensities so that each is as frequent as any other.

    It gives the strongest contrast: to look at, not to measure.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        uint8, uint16, float32 or float64.
    per
        ``"stack"`` looks at all planes together, ``"plane"`` at each.

    Returns
    -------
    ndarray of shape (N, Y, X), type of the stack
        The share of pixels that are no brighter, times the type's maximum for integers (rounded); from 0 to 1 for
        floating-point types.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or the type or a parameter does not fit.

    Notes
    -----
    As `skimage.exposure.equalize_hist` with a bin for each value of integers; exact ranks for floating-point values.
    """
    check_equalized(stack, per)
    if per == "plane":
        return np.stack([_equalized(plane) for plane in stack])
    return _equalized(stack)


def check_equalized(stack: Stack, per: str) -> None:
    """Refuse what `equalize_histogram` does not take."""
    check_stack(stack, "equalize_histogram")
    if per not in ("stack", "plane"):
        raise UsageError(f"equalize_histogram: per is {per!r}", 'It is "stack" or "plane".')
    if not has_histogram(stack.dtype) and stack.dtype.kind != "f":
        raise UsageError(f"equalize_histogram: pixels are {stack.dtype}; it takes uint8, uint16 and floats")


def table_of(counts: NDArray[np.int64], dtype: np.dtype[Any]) -> Stack:
    """Return what each value of pixels becomes, from how many there are of each."""
    reached = np.cumsum(counts) / counts.sum()
    table: Stack = to_type((reached * np.iinfo(dtype).max)[None], dtype)[0]
    return table


def _equalized(pixels: Stack) -> Stack:
    if has_histogram(pixels.dtype):
        equalized: Stack = table_of(histogram(pixels), pixels.dtype)[pixels]
        return equalized
    values, places, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    share = (np.cumsum(counts) / pixels.size).astype(values.dtype)
    return share[places].reshape(pixels.shape)
