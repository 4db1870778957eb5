"""Normalisation of intensities."""

from __future__ import annotations

from typing import Literal

import numpy as np

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack
from openhcs_jupyter.functions.histogram import has_histogram, histogram, percentiles
from openhcs_jupyter.pipeline.contracts import image

_TOP = 65535.0


@image(depth="same", dtype="uint16", need=4.0)
def percentile_normalize(
    stack: Stack, low: float = 1.0, high: float = 99.8, per: Literal["stack", "plane"] = "stack"
) -> Stack:
    """Stretch intensities so that the `low` percentile becomes 0 and the `high` percentile 65535.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    low
        The percentile that becomes 0, interpolated linearly as `numpy.percentile` does; at least 0 and below `high`.
    high
        The percentile that becomes 65535; at most 100.
    per
        ``"stack"`` takes the percentiles over all planes, so that planes stay comparable; ``"plane"`` over each.

    Returns
    -------
    ndarray of shape (N, Y, X), uint16
        Values outside the percentiles are clipped. Within 1 of ``(v - p_low) * 65535 / (p_high - p_low)``, rounded.
        All zeros where the two percentiles are equal, as in a constant image.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    The percentiles of uint8 and uint16 pixels come from their histogram and are exact.
    """
    check_stack(stack, "percentile_normalize")
    check_range("percentile_normalize", "low", low, 0, 100)
    check_range("percentile_normalize", "high", high, 0, 100)
    if low >= high:
        raise UsageError(f"percentile_normalize: low is {low} and high is {high}; low must be below high")
    if per == "stack":
        return _stretch(stack, low, high)
    if per == "plane":
        return np.concatenate([_stretch(plane[None], low, high) for plane in stack])
    raise UsageError(f"percentile_normalize: per is {per!r}", 'It is "stack" or "plane".')


def _stretch(stack: Stack, low: float, high: float) -> Stack:
    import cv2

    counted = has_histogram(stack.dtype)
    bottom, top = percentiles(histogram(stack), (low, high)) if counted else np.percentile(stack, (low, high))
    span = float(top) - float(bottom)
    if span <= 0:
        return np.zeros(stack.shape, dtype=np.uint16)
    if not counted:
        # Subtracted in float64 first: large values with a small spread would lose it in float32.
        stack = ((stack.astype(np.float64) - bottom) / span).astype(np.float32)
        bottom, span = 0.0, 1.0
    flat = np.ascontiguousarray(stack).reshape(-1, stack.shape[-1])
    scale = _TOP / span
    # OpenCV rounds and saturates, which is the clipping at both percentiles.
    out: Stack = cv2.addWeighted(flat, scale, flat, 0.0, -float(bottom) * scale, dtype=cv2.CV_16U)
    return out.reshape(stack.shape)
