"""Cells around nuclei, and their cytoplasm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, to_type
from openhcs_jupyter.functions.filters import blur_plane
from openhcs_jupyter.functions.segmentation import METHODS, Method, find_threshold
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
    check_stack(stack, "segment_cells")
    check_range("segment_cells", "sigma", sigma, 0, 1000)
    if reach is not None:
        check_range("segment_cells", "reach", reach, 0)
    if not isinstance(method, int | float) and method not in METHODS:
        raise UsageError(f"segment_cells: method is {method!r}", f"It is one of {', '.join(METHODS)}, or a number.")
    seeds = _checked(nuclei, stack.shape, "segment_cells", "nuclei")
    labels = np.zeros(stack.shape, dtype=np.int32)
    for index, (plane, out) in enumerate(zip(stack, labels, strict=True)):
        own = seeds[index if len(seeds) > 1 else 0]
        if own.any():
            out[...] = _grown(plane, own, sigma, method, reach)
    return stack, labels


def _grown(
    plane: Stack, nuclei: NDArray[np.int32], sigma: float, method: Method | float, reach: float | None
) -> NDArray[np.int32]:
    import cv2
    from skimage.segmentation import watershed

    smooth = blur_plane(plane, sigma)
    # As nuclei are: the threshold of integers comes from their exact histogram.
    rounded = to_type(smooth, plane.dtype)
    limit = float(method) if isinstance(method, int | float) else find_threshold(rounded, method)
    mask = rounded > limit
    if reach is not None:
        outside = (nuclei == 0).view(np.uint8)
        mask &= cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach
    mask |= nuclei > 0
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
    whole = _checked(cells, (1, *stack.shape[1:]), "cytoplasm", "cells")[0]
    inner = _checked(nuclei, (1, *stack.shape[1:]), "cytoplasm", "nuclei")[0]
    return np.where(inner > 0, np.int32(0), whole)


def _checked(labels: NDArray[Any], shape: tuple[int, ...], function: str, name: str) -> NDArray[np.int32]:
    """Return labels as planes of int32, one for all planes or one for each."""
    planes = labels[None] if labels.ndim == 2 else labels
    if planes.ndim != 3 or planes.shape[1:] != shape[1:] or len(planes) not in (1, shape[0]):
        raise UsageError(
            f"{function}: {name} have the shape {labels.shape}, the stack {shape}",
            "Labels fit planes that they were made from, for instance after the same projection.",
        )
    if planes.dtype.kind not in "biu":
        raise UsageError(f"{function}: {name} are {labels.dtype}; they must be integers")
    if planes.min() < 0 or planes.max() > np.iinfo(np.int32).max:
        raise UsageError(f"{function}: {name} go from {planes.min()} to {planes.max()}", "Number objects from 1.")
    return planes.astype(np.int32, copy=False)
