"""Cells around nuclei, and their cytoplasm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, label_planes, to_type
from openhcs_jupyter.functions.filters import blur_plane
from openhcs_jupyter.functions.thresholds import Method, check_method, find_threshold
from openhcs_jupyter.pipeline.contracts import image, measure


@image(depth="same", dtype="same", need=20.0)
def segment_cells(
    stack: Stack,
    nuclei: NDArray[Any],
    sigma: float = 1.0,
    method: Method | float = "otsu",
    reach: float | None = None,
) -> tuple[Stack, NDArray[np.int32]]:
    """Find one cell around each nucleus, in a channel that stains the cells.

    Pixels above a threshold are given to nuclei by a watershed on the intensity: cells that touch are divided where
    the stain is weakest between them.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Cells brighter than their background; any integer or floating-point type.
    nuclei : ndarray of shape (N, Y, X), (1, Y, X) or (Y, X)
        Labels of nuclei, 0 is background; one plane serves all planes of the stack.
    sigma
        Standard deviation in pixels of the gaussian that smooths before all else; 0 leaves it out.
    method
        How the threshold is found in each plane, as in `threshold`, or the threshold itself.
    reach
        Cells end so many pixels from their nucleus at the latest; None lets them go as far as the stain does.

    Returns
    -------
    stack : ndarray of shape (N, Y, X)
        The stack as it came.
    labels : ndarray of shape (N, Y, X), int32
        0 is background. A cell has the number of its nucleus and contains it, even where it is below the threshold.
        What stands out without a nucleus is left out.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, the nuclei do not fit the stack, or a parameter does not fit.

    Notes
    -----
    The watershed is `skimage.segmentation.watershed` on the negative of the smoothed plane. CellProfiler calls this
    IdentifySecondaryObjects with the method Watershed - Image.
    """
    check_cells(stack, sigma, method, reach)
    seeds = label_planes(nuclei, stack.shape, "segment_cells", "nuclei")
    labels = np.zeros(stack.shape, dtype=np.int32)
    for index, (plane, out) in enumerate(zip(stack, labels, strict=True)):
        own = seeds[index if len(seeds) > 1 else 0]
        if own.any():
            out[...] = _grown(plane, own, sigma, method, reach)
    return stack, labels


def check_cells(stack: Stack, sigma: float, method: Method | float, reach: float | None) -> None:
    """Refuse what `segment_cells` does not take."""
    check_stack(stack, "segment_cells")
    check_range("segment_cells", "sigma", sigma, 0, 1000)
    if reach is not None:
        check_range("segment_cells", "reach", reach, 0)
    check_method("segment_cells", method)


def _grown(
    plane: Stack, nuclei: NDArray[np.int32], sigma: float, method: Method | float, reach: float | None
) -> NDArray[np.int32]:
    import cv2

    smooth = blur_plane(plane, sigma)
    # As nuclei are: the threshold of integers comes from their exact histogram.
    rounded = to_type(smooth, plane.dtype)
    limit = float(method) if isinstance(method, int | float) else find_threshold(rounded, method)
    mask = rounded > limit
    if reach is not None:
        outside = (nuclei == 0).view(np.uint8)
        mask &= cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach
    return divided(smooth, nuclei, mask | (nuclei > 0))


def divided(smooth: Stack, nuclei: NDArray[np.int32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Give the pixels of a mask to nuclei, by a watershed on the intensity."""
    from skimage.segmentation import watershed

    cells: NDArray[np.int32] = watershed(-smooth, nuclei, mask=mask)
    return cells


@measure(stack="channel", need=3.0)
def cytoplasm(stack: Stack, cells: NDArray[Any], nuclei: NDArray[Any]) -> NDArray[np.int32]:
    """Take the nuclei out of the cells.

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        Planes that the labels were made from; only their size matters.
    cells, nuclei : ndarray of shape (Y, X) or (1, Y, X)
        Labels; 0 is background.

    Returns
    -------
    ndarray of shape (Y, X), int32
        The cells' labels where there is no nucleus, else 0. A cell that is all nucleus is not among them.

    Raises
    ------
    UsageError
        If the labels do not fit the stack.
    """
    whole = label_planes(cells, (1, *stack.shape[1:]), "cytoplasm", "cells")[0]
    inner = label_planes(nuclei, (1, *stack.shape[1:]), "cytoplasm", "nuclei")[0]
    rest: NDArray[np.int32] = np.multiply(whole, inner == 0, dtype=np.int32)
    return rest


@measure(stack="channel", need=6.0)
def grow_labels(stack: Stack, labels: NDArray[Any], distance: float = 5.0) -> NDArray[np.int32]:
    """Grow each object by so many pixels, without running into others: cells where only nuclei are stained.

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        Planes that the labels were made from; only their size matters.
    labels : ndarray of shape (Y, X) or (1, Y, X)
        Integers; 0 is background.
    distance
        How far objects grow in pixels.

    Returns
    -------
    ndarray of shape (Y, X), int32
        Each pixel that is no further than `distance` from an object has the label of the nearest one.

    Raises
    ------
    UsageError
        If the labels do not fit the stack, or `distance` is negative.

    Notes
    -----
    As `skimage.segmentation.expand_labels`; where two objects are as near it may decide otherwise.
    """
    check_range("grow_labels", "distance", distance, 0)
    plane: NDArray[np.int32] = label_planes(labels, (1, *stack.shape[1:]), "grow_labels", "labels")[0]
    outside = (plane == 0).view(np.uint8)
    if outside.all() or not outside.any():
        return plane.copy()
    import cv2

    away: NDArray[np.float32] = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    nearest: NDArray[np.int32]
    _, nearest = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    # OpenCV numbers the pixels of objects as it meets them.
    owner = np.zeros(int(nearest.max()) + 1, dtype=np.int32)
    inside = plane > 0
    owner[nearest[inside]] = plane[inside]
    grown: NDArray[np.int32] = np.where(away <= distance, owner[nearest], np.int32(0))
    return grown
