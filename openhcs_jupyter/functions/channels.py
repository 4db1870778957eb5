"""Arithmetic between channels."""

from __future__ import annotations

import numpy as np

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, channel_index, check_range, check_stack, to_type
from openhcs_jupyter.pipeline.contracts import Context, image


@image(stack="channel", depth="same", dtype="same", need=5.0)
def subtract_channel(stack: Stack, channel: str | int, factor: float = 1.0, context: Context | None = None) -> Stack:
    """Subtract one channel, times a factor, from each other channel: bleed-through, or a channel of background.

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        One plane a channel, any integer or floating-point type.
    channel
        The channel that is subtracted: its name, or its place in the stack from 0. It passes through unchanged.
    factor
        What share of it is subtracted.
    context
        Names the channels.

    Returns
    -------
    ndarray of shape (C, Y, X), type of the stack
        Integers are rounded and clipped to their range, so unsigned ones stop at 0; other types may become negative.
        Computed in float32, float64 in float64.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, there is no such channel, or `factor` is negative.
    """
    check_stack(stack, "subtract_channel")
    check_range("subtract_channel", "factor", factor, 0, 1e6)
    index = channel_index(channel, context, len(stack), "subtract_channel")
    depth = np.float64 if stack.dtype == np.float64 else np.float32
    share = stack[index].astype(depth) * depth(factor)
    out = np.empty_like(stack, order="C")
    for position, (plane, target) in enumerate(zip(stack, out, strict=True)):
        target[...] = plane if position == index else to_type(plane.astype(depth) - share, stack.dtype)
    return out


@image(stack="channel", depth="one", dtype="float32", need=5.0)
def ratio(
    stack: Stack,
    numerator: str | int = 0,
    denominator: str | int = 1,
    floor: float = 0.0,
    context: Context | None = None,
) -> Stack:
    """Divide one channel by another, as for FRET and calcium sensors.

    Subtract the background of both before: a ratio of intensities that include it means little.

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        One plane a channel, any integer or floating-point type.
    numerator, denominator
        Channels: their names, or their places in the stack from 0.
    floor
        Where the denominator is not above it the ratio is 0; at least 0.
    context
        Names the channels.

    Returns
    -------
    ndarray of shape (1, Y, X), float32
        The ratio; it is a new channel that has the step's name.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, there is no such channel, both are the same, or `floor` is negative.
    """
    check_stack(stack, "ratio")
    check_range("ratio", "floor", floor, 0)
    above = channel_index(numerator, context, len(stack), "ratio")
    below = channel_index(denominator, context, len(stack), "ratio")
    if above == below:
        raise UsageError(f"ratio: numerator and denominator are the same channel, {numerator!r}")
    out = np.zeros((1, *stack.shape[1:]), dtype=np.float32)
    np.divide(stack[above], stack[below], out=out[0], where=stack[below] > floor, dtype=np.float32, casting="unsafe")
    return out
