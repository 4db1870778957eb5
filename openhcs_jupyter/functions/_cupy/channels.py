"""Kernels of what mixes channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import channels, composites
from openhcs_jupyter.functions._checks import channel_index, check_range, check_stack
from openhcs_jupyter.functions._cupy._arrays import Array, as_float, packages, to_type
from openhcs_jupyter.pipeline.contracts import Context, kernel_for


@kernel_for(composites.composite, need=6.0)
def composite(stack: Array, weights: Sequence[float] | None = None) -> Array:
    check_stack(stack, "composite")
    shares = composites.shares_of(weights, len(stack))
    values = as_float(stack)
    by_plane = packages(stack).xp.asarray(shares.astype(values.dtype))
    return to_type((values * by_plane[:, None, None]).sum(axis=0, keepdims=True), stack.dtype)


@kernel_for(channels.subtract_channel, need=7.0)
def subtract_channel(stack: Array, channel: str | int, factor: float = 1.0, context: Context | None = None) -> Array:
    check_stack(stack, "subtract_channel")
    check_range("subtract_channel", "factor", factor, 0, 1e6)
    index = channel_index(channel, context, len(stack), "subtract_channel")
    values = as_float(stack)
    out = to_type(values - values[index] * values.dtype.type(factor), stack.dtype)
    out[index] = stack[index]
    return out


@kernel_for(channels.ratio, need=9.0)
def ratio(
    stack: Array,
    numerator: str | int = 0,
    denominator: str | int = 1,
    floor: float = 0.0,
    context: Context | None = None,
) -> Array:
    check_stack(stack, "ratio")
    check_range("ratio", "floor", floor, 0)
    above = channel_index(numerator, context, len(stack), "ratio")
    below = channel_index(denominator, context, len(stack), "ratio")
    if above == below:
        raise UsageError(f"ratio: numerator and denominator are the same channel, {numerator!r}")
    xp = packages(stack).xp
    counts = stack[below] > floor
    divisor = xp.where(counts, stack[below].astype(np.float32), np.float32(1))
    return xp.where(counts, stack[above].astype(np.float32) / divisor, np.float32(0))[None]
