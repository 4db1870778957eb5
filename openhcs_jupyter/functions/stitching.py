"""Stitching: one mosaic made of the fields of a well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_stack, to_type
from openhcs_jupyter.functions.positions import field_numbers
from openhcs_jupyter.functions.registration import shift_plane
from openhcs_jupyter.pipeline.contracts import Context, image

if TYPE_CHECKING:
    import pandas as pd

_RAGGED = 4
"""Up to this part of a field's side the border of a mosaic counts as ragged."""
_LARGEST_MOSAIC = 4.0
"""Times the pixels of all fields: beyond it the stage positions are not those of one well."""


@image(stack="field", depth="one", dtype="same", need=9.0)
def stitch(
    stack: Stack,
    positions: pd.DataFrame,
    blend: Literal["linear", "none"] = "linear",
    trim: bool = True,
    context: Context | None = None,
) -> Stack:
    """Lay the fields of a well side by side in one mosaic.

    Parameters
    ----------
    stack : ndarray of shape (F, Y, X)
        One plane a field, any integer or floating-point type.
    positions
        Where each lies, as `field_positions` says: columns ``y`` and ``x``, one row a field; by ``field`` where their
        numbers are known, else in the order of the stack.
    blend
        ``"linear"`` goes over from one field to the next across their overlap; ``"none"`` lets the later field cover
        the earlier ones, so that every pixel is that of one field.
    trim
        Leave out the ragged border that fields do not reach all alike; False keeps all, and the mosaic's first pixel is
        that of `positions`.
    context
        Numbers of the fields.

    Returns
    -------
    ndarray of shape (1, H, W), type of the stack
        As large as the fields reach. Fractions of pixels are interpolated linearly, integers are rounded; 0 where no
        field lies.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, a field has no position, or the positions lie so far apart that the mosaic would
        be mostly empty.

    Notes
    -----
    Each field weighs as much as its distance from its border, along y times along x. Computed in float32, float64 in
    float64.
    """
    places, starts, shape = layout(stack, positions, blend, context)
    depth = np.float64 if stack.dtype == np.float64 else np.float32
    total = np.zeros(shape, dtype=depth)
    weights = np.zeros(shape, dtype=depth)
    for plane, place, start in zip(stack, places, starts, strict=True):
        _lay(plane, place - start, total[start[0] :, start[1] :], weights[start[0] :, start[1] :], blend)
    np.divide(total, weights, out=total, where=weights > 0)
    if trim:
        covered = weights > 0
        rows, columns = (reached(covered.sum(axis=1 - axis), side) for axis, side in enumerate(stack.shape[1:]))
        total = np.ascontiguousarray(total[rows, columns])
    return to_type(total, stack.dtype)[None]


def layout(
    stack: Stack, positions: pd.DataFrame, blend: str, context: Context | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[int, int]]:
    """Return the places of fields in their mosaic, the pixels in which they start, and the mosaic's shape.

    Raises
    ------
    UsageError
        As of `stitch`.
    """
    check_stack(stack, "stitch")
    if blend not in ("linear", "none"):
        raise UsageError(f"stitch: blend is {blend!r}", 'It is "linear" or "none".')
    places = _places(positions, len(stack), context)
    height, width = stack.shape[1:]
    starts = np.floor(places).astype(np.int64)
    rows, columns = map(int, starts.max(axis=0) + np.array([height, width]) + (places > starts).any(axis=0))
    if rows * columns > _LARGEST_MOSAIC * stack.size:
        raise UsageError(
            f"stitch: the mosaic would have {rows} x {columns} pixels, {len(stack)} fields of {height} x {width}",
            "The positions are too far apart; look at their table. Is the pixel size right?",
        )
    return places, starts, (rows, columns)


def reached(counts: NDArray[np.int64], side: int) -> slice:
    """Return the rows between the ragged ends of a mosaic, from how many pixels of each fields of a side cover."""
    end = max(1, side // _RAGGED)
    first = int(np.argmax(counts[:end]))
    last = len(counts) - int(np.argmax(counts[::-1][:end]))
    return slice(first, last)


def _lay(plane: Stack, fraction: NDArray[np.float64], total: Stack, weights: Stack, blend: str) -> None:
    """Add a field to the mosaic from its first pixel on, a fraction of a pixel further."""
    height, width = (side + int(part > 0) for side, part in zip(plane.shape, fraction, strict=True))
    padded = np.pad(plane, ((0, height - plane.shape[0]), (0, width - plane.shape[1])), mode="edge")
    values = shift_plane(padded, *map(float, fraction))
    rows, columns = (ramp(side, float(part), total.dtype) for side, part in zip(plane.shape, fraction, strict=True))
    total, weights = total[:height, :width], weights[:height, :width]
    if blend == "none":
        inside = np.outer(rows > 0, columns > 0)
        np.copyto(total, values, where=inside)
        weights[inside] = 1
        return
    weight = rows[:, None] * columns
    total += values * weight
    weights += weight


def ramp(side: int, fraction: float, dtype: np.dtype[np.generic]) -> Stack:
    """Return the weight of each row by its distance from the border; of a field that starts at `fraction`."""
    places = np.arange(side + int(fraction > 0)) - fraction
    inside = (places >= 0) & (places <= side - 1)
    return np.where(inside, np.minimum(places + 1, side - places), 0).astype(dtype)


def _places(positions: pd.DataFrame, count: int, context: Context | None) -> NDArray[np.float64]:
    missing = [name for name in ("y", "x") if name not in positions.columns]
    if missing:
        have = ", ".join(map(str, positions.columns))
        raise UsageError(
            f"stitch: the positions have no column {missing[0]!r} but {have}",
            'Make them with Step(field_positions, channel="DAPI", outputs=Table("positions")).',
        )
    chosen = positions
    if "field" in positions.columns:
        numbers = field_numbers(count, context)
        by_field = positions.set_index("field")
        lacking = [number for number in numbers if number not in by_field.index]
        if lacking:
            raise UsageError(f"stitch: there is no position of field {', '.join(map(str, lacking))}")
        chosen = by_field.loc[numbers]
    if len(chosen) != count:
        raise UsageError(
            f"stitch: there are {len(chosen)} positions for {count} fields",
            "It takes one row a field: find positions in one channel, after projecting along z.",
        )
    places = chosen[["y", "x"]].to_numpy(dtype=np.float64)
    if not np.isfinite(places).all():
        raise UsageError("stitch: a position is NaN or infinite")
    rounded = np.round(places - places.min(axis=0), 6)
    return np.asarray(rounded, dtype=np.float64)
