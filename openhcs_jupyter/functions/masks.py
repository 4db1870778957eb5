"""Masks and labels: objects made of masks, planes cut out by labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, label_planes
from openhcs_jupyter.pipeline.contracts import image


@image(depth="same", dtype="same", need=10.0, by_plane=True)
def label_objects(
    stack: Stack, min_area: float = 0.0, max_area: float | None = None, fill: bool = False
) -> tuple[Stack, NDArray[np.int32]]:
    """Give a number to each object of a mask: to what is not 0 and holds together.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        As `threshold` and `adaptive_threshold` make it; pixels that are not 0 belong to objects.
    min_area
        Objects smaller than this, in pixels, are left out.
    max_area
        Objects larger than this, in pixels, are left out; None keeps them.
    fill
        Fill holes.

    Returns
    -------
    stack : ndarray of shape (N, Y, X)
        The stack as it came.
    labels : ndarray of shape (N, Y, X), int32
        0 is background. In each plane objects are numbered from 1 in the order in which rows meet them.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    Pixels that meet at a corner hold together, as `skimage.measure.label` has it by default.
    """
    import cv2

    check_stack(stack, "label_objects")
    check_areas("label_objects", min_area, max_area)
    labels = np.empty(stack.shape, dtype=np.int32)
    for plane, out in zip(stack, labels, strict=True):
        mask = (plane != 0).astype(np.uint8)
        if fill:
            fill_holes(mask)
        out[...] = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)[1]
        number_objects(out, min_area, max_area)
    return stack, labels


@image(depth="same", dtype="same", need=2.0)
def mask_with(stack: Stack, labels: NDArray[Any], outside: float = 0.0, invert: bool = False) -> Stack:
    """Keep the pixels within objects and set all others to one value.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    labels : ndarray of shape (N, Y, X), (1, Y, X) or (Y, X)
        Integers or a mask; 0 is background. One plane serves all planes of the stack.
    outside
        The value of pixels that are not kept.
    invert
        Keep the background and not the objects.

    Returns
    -------
    ndarray of shape (N, Y, X), type of the stack

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, the labels do not fit the stack, or `outside` does not fit its type.
    """
    kept = kept_pixels(stack, labels, outside, invert)
    if outside == 0:
        # Some times faster than a choice.
        masked: Stack = np.multiply(stack, kept, dtype=stack.dtype)
        return masked
    return np.where(kept, stack, stack.dtype.type(outside))


def kept_pixels(stack: Stack, labels: NDArray[Any], outside: float, invert: bool) -> NDArray[np.bool_]:
    """Tell which pixels `mask_with` keeps, as planes ``(N, Y, X)`` or ``(1, Y, X)``.

    Raises
    ------
    UsageError
        As of `mask_with`.
    """
    check_stack(stack, "mask_with")
    if stack.dtype.kind in "iu":
        limits = np.iinfo(stack.dtype)
        check_range("mask_with", "outside", outside, int(limits.min), int(limits.max))
    planes = label_planes(labels, stack.shape, "mask_with", "labels")
    kept: NDArray[np.bool_] = planes == 0 if invert else planes != 0
    return kept


def check_areas(function: str, min_area: float, max_area: float | None) -> None:
    """Refuse areas that are not ``0 <= min_area <= max_area``."""
    check_range(function, "min_area", min_area, 0)
    if max_area is not None:
        check_range(function, "max_area", max_area, min_area)


def fill_holes(mask: NDArray[np.uint8]) -> None:
    """Set what 4-connected background does not join to the plane's border, in place."""
    import cv2

    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mask, contours, -1, 1, cv2.FILLED, lineType=cv2.LINE_8)


def number_objects(labels: NDArray[np.int32], min_area: float, max_area: float | None) -> None:
    """Drop labels by area and number the others from 1 in raster order, in place."""
    from openhcs_jupyter.functions import _kernels

    extents = _kernels.extents(labels, int(labels.max()) + 1)
    area, first = extents[:, 0], extents[:, 1]
    keep = area >= max(min_area, 1)
    if max_area is not None:
        keep &= area <= max_area
    kept = np.flatnonzero(keep)
    new = np.zeros(len(area), dtype=np.int32)
    new[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1, dtype=np.int32)
    _kernels.renumber(labels, new)
