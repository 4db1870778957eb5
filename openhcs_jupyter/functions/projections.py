"""Projections of a stack to one plane."""

from __future__ import annotations

import numpy as np

from openhcs_jupyter.functions._checks import Stack, check_stack, to_type
from openhcs_jupyter.pipeline.contracts import image


@image(depth="one", dtype="same", need=1.0)
def max_projection(stack: Stack) -> Stack:
    """Take the brightest value of each pixel over the planes.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.

    Returns
    -------
    ndarray of shape (1, Y, X), type of the stack

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite.
    """
    check_stack(stack, "max_projection")
    plane: Stack = stack.max(axis=0, keepdims=True)
    return plane


@image(depth="one", dtype="same", need=1.0)
def min_projection(stack: Stack) -> Stack:
    """Take the darkest value of each pixel over the planes; as `max_projection` otherwise."""
    check_stack(stack, "min_projection")
    plane: Stack = stack.min(axis=0, keepdims=True)
    return plane


@image(depth="one", dtype="same", need=5.0)
def mean_projection(stack: Stack) -> Stack:
    """Take the mean of each pixel over the planes.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.

    Returns
    -------
    ndarray of shape (1, Y, X), type of the stack
        Integers are rounded to the nearest.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite.
    """
    check_stack(stack, "mean_projection")
    total = stack.sum(axis=0, keepdims=True, dtype=np.float64)
    total /= len(stack)
    return to_type(total, stack.dtype)


@image(depth="one", need=2.0)
def sum_projection(stack: Stack) -> Stack:
    """Add up each pixel over the planes.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.

    Returns
    -------
    ndarray of shape (1, Y, X)
        uint32 of uint8 and uint16, the stack's own type of floating-point planes, else int64 or uint64.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite.
    """
    check_stack(stack, "sum_projection")
    small = stack.dtype in (np.uint8, np.uint16)
    total: Stack = stack.sum(axis=0, keepdims=True, dtype=np.uint32 if small else None)
    return total
