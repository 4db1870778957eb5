"""Parts of planes, and planes of fewer pixels."""

from __future__ import annotations

from typing import Literal

import numpy as np

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, to_type
from openhcs_jupyter.model import PixelGrid
from openhcs_jupyter.pipeline.contracts import EVERY, image

_COUNTED = 256
"""Side of the blocks whose sum of 16-bit pixels is below 2**32."""


@image(
    depth="same",
    dtype="same",
    need=1.0,
    memory=EVERY,
    by_plane=True,
    grid=lambda params: PixelGrid(y=params["y"], x=params["x"]),
)
def crop(stack: Stack, y: int, x: int, height: int, width: int) -> Stack:
    """Cut the same box out of each plane.

    What is saved of it, and what a viewer shows, has the stage position of the box.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    y, x
        First row and first column of the box, from 0.
    height, width
        Size of the box in pixels; it must lie within the plane.

    Returns
    -------
    ndarray of shape (N, height, width), type of the stack
        A copy.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or the box reaches out of the plane.
    """
    check_stack(stack, "crop")
    for name, value, least in (("y", y, 0), ("x", x, 0), ("height", height, 1), ("width", width, 1)):
        check_range("crop", name, value, least, 1e9)
        if value != int(value):
            raise UsageError(f"crop: {name} is {value!r}; it must be a whole number")
    rows, columns = stack.shape[1:]
    if y + height > rows or x + width > columns:
        raise UsageError(
            f"crop: the box ends at row {y + height} and column {x + width}, the planes at {rows} and {columns}",
            "Choose a box that lies within the planes.",
        )
    return stack[:, int(y) : int(y + height), int(x) : int(x + width)].copy()


@image(depth="same", dtype="same", need=4.0, by_plane=True, grid=lambda params: PixelGrid(factor=params["factor"]))
def bin_pixels(stack: Stack, factor: int = 2, method: Literal["mean", "sum", "max", "min"] = "mean") -> Stack:
    """Make one pixel of each square block of pixels, as binning on a camera does.

    The pixel size in micrometres grows with it, in what later steps measure and in what is saved.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    factor
        Side of a block in pixels. Rows and columns at the end that fill no block are left out.
    method
        What the new pixel is of its block.

    Returns
    -------
    ndarray of shape (N, Y // factor, X // factor), type of the stack
        Means of integers are rounded, sums are clipped to the type's range.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    As `skimage.measure.block_reduce`.
    """
    whole, side = whole_blocks(stack, factor, method)
    if method in ("max", "min"):
        return _extreme(whole, side, np.maximum if method == "max" else np.minimum)
    small = stack.dtype in (np.uint8, np.uint16) and side <= _COUNTED
    total = _added(whole, side, np.dtype(np.uint32 if small else np.float64))
    if method == "sum":
        return to_type(total.astype(np.float64), stack.dtype)
    return to_type(total / side**2, stack.dtype)


def whole_blocks(stack: Stack, factor: int, method: str) -> tuple[Stack, int]:
    """Return the part of a stack that `bin_pixels` divides into blocks, and their side.

    Raises
    ------
    UsageError
        As of `bin_pixels`.
    """
    check_stack(stack, "bin_pixels")
    height, width = stack.shape[1:]
    check_range("bin_pixels", "factor", factor, 1, min(height, width))
    if factor != int(factor):
        raise UsageError(f"bin_pixels: factor is {factor!r}; it must be a whole number")
    if method not in ("mean", "sum", "max", "min"):
        raise UsageError(f"bin_pixels: method is {method!r}", 'It is "mean", "sum", "max" or "min".')
    side = int(factor)
    return stack[:, : height // side * side, : width // side * side], side


def _added(stack: Stack, side: int, dtype: np.dtype[np.generic]) -> Stack:
    rows = stack[:, ::side].astype(dtype)
    for start in range(1, side):
        rows += stack[:, start::side]
    total = rows[:, :, ::side].copy()
    for start in range(1, side):
        total += rows[:, :, start::side]
    return total


def _extreme(stack: Stack, side: int, choose: np.ufunc) -> Stack:
    rows = stack[:, ::side].copy()
    for start in range(1, side):
        choose(rows, stack[:, start::side], out=rows)
    best = rows[:, :, ::side].copy()
    for start in range(1, side):
        choose(best, rows[:, :, start::side], out=best)
    return best
