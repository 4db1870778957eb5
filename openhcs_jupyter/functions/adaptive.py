"""Thresholds that follow the background of each plane."""

from __future__ import annotations

from typing import Literal

import numpy as np

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_stack
from openhcs_jupyter.functions.filters import blur_plane
from openhcs_jupyter.pipeline.contracts import image


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
