"""Kernels of the places of fields and of the mosaic made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from openhcs_jupyter.functions import positions, stitching
from openhcs_jupyter.functions._cupy._arrays import Array, host, packages, to_type
from openhcs_jupyter.functions._cupy.registration import find_shift, likely_shifts, shift_plane
from openhcs_jupyter.pipeline.contracts import Context, kernel_for

if TYPE_CHECKING:
    import pandas as pd


@kernel_for(positions.field_positions, need=8.0)
def field_positions(
    stack: Array,
    refine: bool = True,
    max_shift: float = 30.0,
    min_correlation: float = 0.4,
    grid: tuple[int, int] | None = None,
    overlap: float = 0.1,
    context: Context | None = None,
) -> pd.DataFrame:
    by = positions.Comparing(likely_shifts, find_shift, _similarity)
    return positions.positions_table(stack, refine, max_shift, min_correlation, grid, overlap, context, by)


@kernel_for(stitching.stitch, need=16.0)
def stitch(
    stack: Array,
    positions: pd.DataFrame,
    blend: Literal["linear", "none"] = "linear",
    trim: bool = True,
    context: Context | None = None,
) -> Array:
    places, starts, shape = stitching.layout(stack, positions, blend, context)
    xp = packages(stack).xp
    depth = np.float64 if stack.dtype == np.float64 else np.float32
    total, weights = xp.zeros(shape, dtype=depth), xp.zeros(shape, dtype=depth)
    for plane, place, start in zip(stack, places, starts, strict=True):
        y, x = map(float, place - start)
        top, left = map(int, start)
        height, width = plane.shape[0] + int(y > 0), plane.shape[1] + int(x > 0)
        padded = xp.pad(plane, ((0, height - plane.shape[0]), (0, width - plane.shape[1])), mode="edge")
        values = shift_plane(padded, y, x)
        rows, columns = (
            xp.asarray(stitching.ramp(side, part, np.dtype(depth)))
            for side, part in zip(plane.shape, (y, x), strict=True)
        )
        under = np.s_[top : top + height, left : left + width]
        if blend == "none":
            inside = (rows > 0)[:, None] & (columns > 0)
            total[under] = xp.where(inside, values, total[under])
            weights[under] = xp.where(inside, depth(1), weights[under])
        else:
            weight = rows[:, None] * columns
            total[under] += values * weight
            weights[under] += weight
    covered = weights > 0
    total = total / xp.where(covered, weights, depth(1))
    if trim:
        down, across = (
            stitching.reached(host(covered.sum(axis=1 - axis)), side) for axis, side in enumerate(stack.shape[1:])
        )
        total = xp.ascontiguousarray(total[down, across])
    return to_type(total, stack.dtype)[None]


def _similarity(one: Array, other: Array) -> float:
    xp = packages(one).xp
    a, b = one.astype(np.float32).ravel(), other.astype(np.float32).ravel()
    a, b = a - a.mean(), b - b.mean()
    power = float(xp.dot(a, a)) * float(xp.dot(b, b))
    return float(xp.dot(a, b)) / power**0.5 if power > 0 else 0.0
