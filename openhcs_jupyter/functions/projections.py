"""Projections of a stack to one plane; written to the array API standard, so that they take arrays of a GPU, too."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, cast, check_stack, kind_of, namespace, to_type
from openhcs_jupyter.pipeline.contracts import EVERY, image


@image(depth="one", dtype="same", need=1.0, memory=EVERY)
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
    plane: Stack = namespace(stack).max(stack, axis=0, keepdims=True)
    return plane


@image(depth="one", dtype="same", need=1.0, memory=EVERY)
def min_projection(stack: Stack) -> Stack:
    """Take the darkest value of each pixel over the planes; as `max_projection` otherwise."""
    check_stack(stack, "min_projection")
    plane: Stack = namespace(stack).min(stack, axis=0, keepdims=True)
    return plane


@image(depth="one", dtype="same", need=5.0, memory=EVERY)
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
    xp = namespace(stack)
    mean: Any = xp.sum(stack, axis=0, keepdims=True, dtype=xp.float64) / stack.shape[0]
    if isinstance(mean, np.ndarray):
        return to_type(mean, stack.dtype)
    # A mean stays within the range of what it is made from.
    rounded: Stack = cast(mean if kind_of(stack) == "f" else xp.round(mean), stack.dtype)
    return rounded


@image(depth="one", need=2.0, memory=EVERY)
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
    xp = namespace(stack)
    small = stack.dtype in (xp.uint8, xp.uint16)
    total: Stack = xp.sum(stack, axis=0, keepdims=True, dtype=xp.uint32 if small else None)
    return total


@image(depth="one", dtype="same", need=1.0, memory=EVERY, grid=lambda _: None)
def side_projection(stack: Stack, along: Literal["y", "x"] = "y") -> Stack:
    """Look at a stack from its side: the brightest value along y or x.

    Its rows lie a step of z apart, so that its pixels are no squares and what is saved of it has no pixel size.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    along
        ``"y"`` makes rows of the planes and keeps x; ``"x"`` keeps y.

    Returns
    -------
    ndarray of shape (1, N, X) or (1, N, Y), type of the stack

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or `along` does not fit.
    """
    check_stack(stack, "side_projection")
    if along not in ("y", "x"):
        raise UsageError(f"side_projection: along is {along!r}", 'It is "y" or "x".')
    plane: Stack = namespace(stack).max(stack, axis=1 if along == "y" else 2)
    return plane[None]
