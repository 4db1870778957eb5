"""Parts of planes."""

from __future__ import annotations

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack
from openhcs_jupyter.pipeline.contracts import EVERY, image


@image(depth="same", dtype="same", need=1.0, memory=EVERY, by_plane=True)
def crop(stack: Stack, y: int, x: int, height: int, width: int) -> Stack:
    """Cut the same box out of each plane.

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
