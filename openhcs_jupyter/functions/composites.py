"""Channels mixed to one plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import ROUNDABLE, Stack, check_stack, to_type
from openhcs_jupyter.pipeline.contracts import image


@image(stack="channel", depth="one", dtype="same", need=4.0)
def composite(stack: Stack, weights: Sequence[float] | None = None) -> Stack:
    """Mix the planes to their weighted mean.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        One plane a channel, any integer or floating-point type.
    weights
        One a plane, scaled so that they add up to 1; left out, all planes count alike.

    Returns
    -------
    ndarray of shape (1, Y, X), type of the stack
        Integers are rounded to the nearest and clipped to their range. Computed in float32, float64 in float64.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, the number of weights is not that of the planes, or they add up to 0.
    """
    import cv2

    check_stack(stack, "composite")
    shares = shares_of(weights, len(stack))
    if len(stack) == 2 and stack.dtype in (np.uint8, np.uint16) and float(np.abs(shares).sum()) * 65535 < ROUNDABLE:
        mixed: Stack = cv2.addWeighted(stack[0], shares[0], stack[1], shares[1], 0.0)
        return mixed[None]
    mix = np.zeros(stack.shape[1:], dtype=np.float64 if stack.dtype == np.float64 else np.float32)
    for plane, share in zip(stack, shares, strict=True):
        mix += plane * mix.dtype.type(share)
    return to_type(mix, stack.dtype)[None]


def shares_of(weights: Sequence[float] | None, count: int) -> NDArray[np.float64]:
    """Scale the weights of `composite` so that they add up to 1."""
    shares = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (count,):
        raise UsageError(f"composite: {shares.size} weights for {count} planes", "Give one weight a channel.")
    total = float(shares.sum())
    if not np.isfinite(total) or total == 0:
        raise UsageError(f"composite: the weights add up to {total}; they are scaled to add up to 1")
    return shares / total
