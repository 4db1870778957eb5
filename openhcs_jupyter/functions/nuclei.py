"""Nuclei: found, those that touch divided, numbered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, to_type
from openhcs_jupyter.functions.filters import blur_plane
from openhcs_jupyter.functions.histogram import has_histogram, histogram
from openhcs_jupyter.functions.masks import check_areas, fill_holes, number_objects
from openhcs_jupyter.functions.thresholds import Method, check_method, find_threshold, threshold_of
from openhcs_jupyter.pipeline.contracts import image


@image(depth="same", dtype="same", need=14.0)
def segment_nuclei(
    stack: Stack,
    sigma: float = 1.0,
    method: Method | float = "otsu",
    min_area: float = 30.0,
    max_area: float | None = None,
    seed_distance: int = 5,
    min_contrast: float = 3.0,
) -> tuple[Stack, NDArray[np.int32]]:
    """Find nuclei, separate those that touch, and number them.

    Each plane is blurred and thresholded, holes are filled, and objects that have several peaks of the distance from
    their edge are divided by a watershed.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Nuclei brighter than their background; any integer or floating-point type.
    sigma
        Standard deviation in pixels of the gaussian that smooths before the threshold; 0 leaves it out.
    method
        How the threshold is found in each plane, as in `threshold`, or the threshold itself.
    min_area
        Objects smaller than this, in pixels, are left out.
    max_area
        Objects larger than this, in pixels, are left out; None keeps them.
    seed_distance
        Peaks of the distance from the edge within so many pixels count as one nucleus; about half a nucleus's radius.
    min_contrast
        The foreground's mean must lie above the background's by so many of the background's standard deviations, else
        the plane holds no objects: without nuclei a threshold divides nothing but noise. 0 accepts anything.

    Returns
    -------
    stack : ndarray of shape (N, Y, X)
        The stack as it came.
    labels : ndarray of shape (N, Y, X), int32
        0 is background. In each plane nuclei are numbered from 1 in the order in which rows meet them. All 0 where
        there are none.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    Connected components (8 neighbours) and the distance transform are OpenCV's, the watershed on the distance is
    scikit-image's and runs only where nuclei touch.
    """
    check_nuclei(stack, sigma, method, min_area, max_area, seed_distance)
    labels = np.zeros(stack.shape, dtype=np.int32)
    for plane, out in zip(stack, labels, strict=True):
        smooth = plane if sigma == 0 else to_type(blur_plane(plane, sigma), plane.dtype)
        counts = histogram(smooth) if has_histogram(smooth.dtype) else None
        limit = foreground_limit(smooth, counts, method, min_contrast)
        if limit is not None:
            draw_nuclei((smooth > limit).view(np.uint8), out, min_area, max_area, seed_distance)
    return stack, labels


def check_nuclei(
    stack: Stack, sigma: float, method: Method | float, min_area: float, max_area: float | None, seed_distance: int
) -> None:
    """Refuse what `segment_nuclei` does not take."""
    check_stack(stack, "segment_nuclei")
    check_range("segment_nuclei", "sigma", sigma, 0, 1000)
    check_range("segment_nuclei", "seed_distance", seed_distance, 1, 1000)
    check_areas("segment_nuclei", min_area, max_area)
    check_method("segment_nuclei", method)


def foreground_limit(
    smooth: Stack, counts: NDArray[np.int64] | None, method: Method | float, min_contrast: float
) -> float | None:
    """Return the value above which pixels may be nuclei, or None where nothing stands out.

    Parameters
    ----------
    smooth
        A plane; not looked at where its `counts` by value are known.
    counts, method, min_contrast
        As of `segment_nuclei`.
    """
    if counts is not None:
        limit = float(method) if isinstance(method, int | float) else threshold_of(counts, method)
        values: Stack = np.arange(len(counts))
        weights: Stack = counts
    else:
        limit = float(method) if isinstance(method, int | float) else find_threshold(smooth, method)
        values, weights = smooth.ravel(), np.ones(smooth.size)
    bright = values > limit
    if not weights[bright].any() or not _stands_out(values, weights, bright, min_contrast):
        return None
    return limit


def draw_nuclei(
    mask: NDArray[np.uint8], out: NDArray[np.int32], min_area: float, max_area: float | None, seed_distance: int
) -> None:
    """Draw the nuclei of a mask, those that touch divided, into `out`; the mask's holes are filled in place."""
    fill_holes(mask)
    _divide(mask, out, min_area, seed_distance)
    number_objects(out, min_area, max_area)


def _stands_out(values: Stack, weights: Stack, bright: NDArray[np.bool_], min_contrast: float) -> bool:
    dark = ~bright
    if min_contrast == 0 or not weights[dark].any():
        return True
    foreground = np.average(values[bright], weights=weights[bright])
    background = np.average(values[dark], weights=weights[dark])
    spread = np.sqrt(np.average((values[dark] - background) ** 2, weights=weights[dark]))
    return bool(foreground - background >= min_contrast * spread)


def _divide(mask: NDArray[np.uint8], out: NDArray[np.int32], min_area: float, seed_distance: int) -> None:
    """Write the components of `mask` into `out`, those with several seeds divided."""
    import cv2

    from openhcs_jupyter.functions import _kernels

    count, components = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)
    out[...] = components
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    # Smoothed, or every corner of a pixelated outline raises a ridge with peaks of its own.
    ridge = cv2.GaussianBlur(distance, (9, 9), 1.0)
    around = np.ones((2 * seed_distance + 1, 2 * seed_distance + 1), dtype=np.uint8)
    peaks = ((ridge >= cv2.dilate(ridge, around)) & mask.view(np.bool_)).view(np.uint8)
    seed_count, seeds = cv2.connectedComponents(peaks, connectivity=8, ltype=cv2.CV_32S)
    seeds_of = np.bincount(_kernels.owners(seeds, components, seed_count)[1:], minlength=count)
    extents = _kernels.extents(components, count)
    for component in np.flatnonzero((seeds_of > 1) & (extents[:, 0] >= 2 * min_area)):
        _, _, top, left, bottom, right = extents[component]
        window = np.s_[top:bottom, left:right]
        own = components[window] == component
        parts = _watershed(ridge[window], np.where(own, seeds[window], 0), own)
        # Seeds are numbered over the plane: above `count` they are unlike any component.
        out[window][own] = parts[own] + count


def _watershed(ridge: NDArray[np.float32], seeds: NDArray[np.int32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    from skimage.segmentation import watershed

    parts: NDArray[np.int32] = watershed(-ridge, seeds, mask=mask)
    return parts
