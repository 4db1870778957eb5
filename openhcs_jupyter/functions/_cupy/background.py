"""Kernel of the background that changes slowly."""

from __future__ import annotations

from openhcs_jupyter.functions import background
from openhcs_jupyter.functions._checks import check_range, check_stack
from openhcs_jupyter.functions._cupy._arrays import (
    Array,
    area_weights,
    as_float,
    blur,
    linear_weights,
    opening,
    packages,
    resized,
    to_type,
)
from openhcs_jupyter.functions.filters import disk
from openhcs_jupyter.pipeline.contracts import kernel_for


@kernel_for(background.subtract_background, need=10.0)
def subtract_background(stack: Array, radius: int = 50, downsample: int = 4) -> Array:
    check_stack(stack, "subtract_background")
    check_range("subtract_background", "radius", radius, 1)
    check_range("subtract_background", "downsample", downsample, 1, radius)
    radius, downsample = int(radius), int(downsample)
    values = as_float(stack)
    height, width = stack.shape[1:]
    rows, columns = max(1, height // downsample), max(1, width // downsample)
    small = values
    if downsample > 1:
        small = resized(values, area_weights(rows, height), area_weights(columns, width))
    reach = radius // downsample
    smooth = blur(opening(small, disk(reach)), reach / 2)
    if downsample > 1:
        smooth = resized(smooth, linear_weights(height, rows), linear_weights(width, columns))
    return to_type(packages(stack).xp.maximum(values - smooth, 0), stack.dtype)
