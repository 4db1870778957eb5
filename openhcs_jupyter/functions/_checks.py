"""What the standard functions ask of their arguments, and the casts that they share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError

Stack: TypeAlias = NDArray[Any]
"""Planes ``(N, Y, X)`` of real numbers."""


def check_stack(stack: Stack, function: str) -> None:
    """Refuse what is not a stack of planes of real, finite numbers.

    Raises
    ------
    UsageError
        If `stack` does not have three axes, has an empty one, is complex, or holds NaN or infinity.
    """
    if stack.ndim != 3 or 0 in stack.shape:
        raise UsageError(
            f"{function}: a stack has the shape (N, Y, X) with pixels in it, not {stack.shape}",
            "Return a stack from the step before, or add an axis with image[None].",
        )
    if stack.dtype.kind not in "buif":
        raise UsageError(f"{function}: pixels of type {stack.dtype} are not real numbers")
    if stack.dtype.kind == "f":
        bad = int(stack.size - np.count_nonzero(np.isfinite(stack)))
        if bad:
            raise UsageError(
                f"{function}: {bad} of {stack.size} pixels are NaN or infinite",
                "Replace them in a step before, for instance with numpy.nan_to_num.",
            )


def check_range(function: str, name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Refuse a parameter outside ``low <= value <= high``, NaN included.

    Raises
    ------
    UsageError
        Names the function, the parameter and the range.
    """
    if not low <= value <= high:
        limits = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise UsageError(f"{function}: {name} is {value!r}; it must be {limits}")


def to_type(values: Stack, dtype: np.dtype[Any]) -> Stack:
    """Convert floating-point results to a pixel type: integers are rounded half up and clipped to their range."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    if dtype.kind == "b":
        return values >= 0.5
    if dtype in (np.uint8, np.uint16):
        import cv2

        flat = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
        depth = cv2.CV_8U if dtype == np.uint8 else cv2.CV_16U
        cast: Stack = cv2.addWeighted(flat, 1.0, flat, 0.0, 0.0, dtype=depth).reshape(values.shape)
        return cast
    limits = np.iinfo(dtype)
    # The float below the type's maximum: the maximum itself may round up, and then overflows.
    top = np.nextafter(float(limits.max), 0.0) if limits.bits > 32 else float(limits.max)
    return np.clip(np.floor(values.astype(np.float64) + 0.5), float(limits.min), top).astype(dtype)
