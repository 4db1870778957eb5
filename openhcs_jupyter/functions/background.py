"""Background that changes slowly over a plane, found in the plane itself."""

from __future__ import annotations

import numpy as np

from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, to_type
from openhcs_jupyter.functions.filters import blur_plane, disk
from openhcs_jupyter.pipeline.contracts import image


@image(depth="same", dtype="same", need=7.0, by_plane=True)
def subtract_background(stack: Stack, radius: int = 50, downsample: int = 4) -> Stack:
    """Subtract from each plane its smooth background: a morphological opening with a disk, blurred.

    It does what the rolling ball of ImageJ is used for. The disk is flat, where the height of the ball is a number of
    grey values: so the result does not depend on the scale of the intensities. Unlike that of `top_hat`, the background
    is smooth.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    radius
        Radius of the disk in pixels of the full plane; objects must be narrower than it.
    downsample
        Find the background in a plane of means of blocks of this side, and enlarge it by linear interpolation. The
        means also keep noise from pulling the background down. 1 stays with the full plane.

    Returns
    -------
    ndarray of shape (N, Y, X), type of the stack
        Never below 0; integers are rounded and clipped to their range.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    The idea is Sternberg's (1983). With ``downsample=1`` the background is `skimage.morphology.opening` with a disk,
    then `skimage.filters.gaussian` with half the radius. Computed in float32 by OpenCV, float64 planes in float64.
    """
    check_stack(stack, "subtract_background")
    check_range("subtract_background", "radius", radius, 1)
    check_range("subtract_background", "downsample", downsample, 1, radius)
    out = np.empty_like(stack, order="C")
    for plane, target in zip(stack, out, strict=True):
        target[...] = to_type(_without_background(plane, int(radius), int(downsample)), stack.dtype)
    return out


def _without_background(plane: Stack, radius: int, downsample: int) -> Stack:
    import cv2

    values = np.ascontiguousarray(plane, dtype=np.float64 if plane.dtype == np.float64 else np.float32)
    height, width = values.shape
    small = values
    if downsample > 1:
        size = (max(1, width // downsample), max(1, height // downsample))
        small = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    reach = radius // downsample
    opened = cv2.morphologyEx(small, cv2.MORPH_OPEN, disk(reach), borderType=cv2.BORDER_REPLICATE)
    background = blur_plane(opened, reach / 2)
    if downsample > 1:
        background = cv2.resize(background, (width, height), interpolation=cv2.INTER_LINEAR)
    rest: Stack = np.maximum(values - background, 0)
    return rest
