"""Kernels of the filters."""

from __future__ import annotations

import numpy as np

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import filters
from openhcs_jupyter.functions._checks import check_range, check_stack
from openhcs_jupyter.functions._cupy._arrays import (
    Array,
    area_weights,
    as_float,
    blur,
    opening,
    packages,
    resized,
    to_type,
)
from openhcs_jupyter.pipeline.contracts import kernel_for


@kernel_for(filters.gaussian_blur, need=9.0)
def gaussian_blur(stack: Array, sigma: float = 2.0) -> Array:
    check_stack(stack, "gaussian_blur")
    check_range("gaussian_blur", "sigma", sigma, 0, 1000)
    return stack.copy() if sigma == 0 else to_type(blur(as_float(stack), sigma), stack.dtype)


@kernel_for(filters.sharpen, need=11.0)
def sharpen(stack: Array, sigma: float = 1.0, amount: float = 1.0) -> Array:
    check_stack(stack, "sharpen")
    check_range("sharpen", "sigma", sigma, 0, 1000)
    check_range("sharpen", "amount", amount, 0, 1000)
    values = as_float(stack)
    return to_type((1 + amount) * values - amount * blur(values, sigma), stack.dtype)


@kernel_for(filters.median, need=2.0)
def median(stack: Array, radius: int = 1) -> Array:
    check_stack(stack, "median")
    if radius not in (1, 2):
        raise UsageError(f"median: radius is {radius!r}; it must be 1 or 2")
    if stack.dtype not in (np.uint8, np.uint16, np.float32):
        raise UsageError(f"median: pixels are {stack.dtype}; it takes uint8, uint16 and float32")
    side = 2 * radius + 1
    return packages(stack).ndimage.median_filter(stack, size=(1, side, side), mode="nearest")


@kernel_for(filters.top_hat, need=8.0)
def top_hat(stack: Array, radius: int = 15, downsample: int = 4) -> Array:
    check_stack(stack, "top_hat")
    check_range("top_hat", "radius", radius, 1)
    check_range("top_hat", "downsample", downsample, 1, radius)
    xp = packages(stack).xp
    native = stack.dtype in (np.uint8, np.uint16, np.float32, np.float64)
    values = stack if native else stack.astype(np.float64)
    height, width = stack.shape[1:]
    rows, columns = max(1, height // downsample), max(1, width // downsample)
    small = values
    if downsample > 1:
        means = resized(as_float(values), area_weights(rows, height), area_weights(columns, width))
        small = to_type(means, values.dtype)
    background = opening(small, filters.disk(radius // downsample))
    if downsample > 1:
        from_row = xp.asarray(np.arange(height) * (rows / height)).astype(np.int64)
        from_column = xp.asarray(np.arange(width) * (columns / width)).astype(np.int64)
        background = background[:, from_row[:, None], from_column[None, :]]
    if values.dtype.kind == "u":
        return values - xp.minimum(values, background)
    return to_type(xp.maximum(values - background, 0), stack.dtype)
