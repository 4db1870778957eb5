"""Filters of planes: gaussian blur, sharpening, median, top-hat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, to_type
from openhcs_jupyter.pipeline.contracts import image

_TRUNCATE = 4.0


@image(depth="same", dtype="same", need=5.0, by_plane=True)
def gaussian_blur(stack: Stack, sigma: float = 2.0) -> Stack:
    """Blur each plane with a gaussian.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    sigma
        Standard deviation in pixels; 0 returns a copy.

    Returns
    -------
    ndarray of shape (N, Y, X), type of the stack
        Integers are rounded. The kernel is cut at four standard deviations and the border is repeated, as
        `skimage.filters.gaussian` does by default.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or `sigma` is negative.

    Notes
    -----
    Computed in float32 by OpenCV, float64 planes in float64.
    """
    check_stack(stack, "gaussian_blur")
    check_range("gaussian_blur", "sigma", sigma, 0, 1000)
    out = np.empty_like(stack, order="C")
    for plane, target in zip(stack, out, strict=True):
        target[...] = to_type(blur_plane(plane, sigma), stack.dtype)
    return out


def blur_plane(plane: Stack, sigma: float) -> Stack:
    """Blur one plane ``(Y, X)``; returns float32, or float64 of a float64 plane."""
    import cv2

    values = plane if plane.dtype == np.float64 else plane.astype(np.float32)
    if sigma == 0:
        return values
    side = 2 * int(_TRUNCATE * sigma + 0.5) + 1
    blurred: Stack = cv2.GaussianBlur(values, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    return blurred


@image(depth="same", dtype="same", need=6.0, by_plane=True)
def sharpen(stack: Stack, sigma: float = 1.0, amount: float = 1.0) -> Stack:
    """Sharpen each plane by an unsharp mask: what a gaussian blur takes away is added once more.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    sigma
        Standard deviation of the gaussian in pixels: the size of the details.
    amount
        How often the details are added; 0 changes nothing.

    Returns
    -------
    ndarray of shape (N, Y, X), type of the stack
        ``plane + amount * (plane - blurred)``. Integers are rounded and clipped to their range, floating-point values
        are not clipped.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter is negative.

    Notes
    -----
    As `skimage.filters.unsharp_mask` with ``preserve_range``, except that the border is repeated and not mirrored.
    Computed in float32 by OpenCV, float64 planes in float64.
    """
    check_stack(stack, "sharpen")
    check_range("sharpen", "sigma", sigma, 0, 1000)
    check_range("sharpen", "amount", amount, 0, 1000)
    out = np.empty_like(stack, order="C")
    for plane, target in zip(stack, out, strict=True):
        blurred = blur_plane(plane, sigma)
        target[...] = to_type((1 + amount) * plane.astype(blurred.dtype) - amount * blurred, stack.dtype)
    return out


@image(depth="same", dtype="same", need=2.0, by_plane=True)
def median(stack: Stack, radius: int = 1) -> Stack:
    """Replace each pixel by the median of the square around it.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        uint8, uint16 or float32.
    radius
        1 takes 3 x 3 pixels, 2 takes 5 x 5.

    Returns
    -------
    ndarray of shape (N, Y, X), type of the stack
        Equal to `scipy.ndimage.median_filter` with mode ``nearest``.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or the type or radius does not fit.
    """
    import cv2

    check_stack(stack, "median")
    if radius not in (1, 2):
        raise UsageError(f"median: radius is {radius!r}; it must be 1 or 2")
    if stack.dtype not in (np.uint8, np.uint16, np.float32):
        raise UsageError(f"median: pixels are {stack.dtype}; it takes uint8, uint16 and float32")
    out = np.empty_like(stack, order="C")
    for plane, target in zip(stack, out, strict=True):
        target[...] = cv2.medianBlur(np.ascontiguousarray(plane), 2 * radius + 1)
    return out


@image(depth="same", dtype="same", need=4.0, by_plane=True)
def top_hat(stack: Stack, radius: int = 15, downsample: int = 4) -> Stack:
    """Subtract from each plane the background that is wider than a disk: the white top-hat.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    radius
        Radius of the disk in pixels of the full plane; objects must be narrower than it.
    downsample
        Find the background in a plane that is smaller by this factor, and enlarge it again without interpolation:
        about `downsample` squared times faster. 1 is the exact top-hat.

    Returns
    -------
    ndarray of shape (N, Y, X), type of the stack
        Never below 0. With ``downsample=1`` equal to `skimage.morphology.white_tophat` with a disk.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.

    Notes
    -----
    The smaller plane holds means of blocks; its disk has the radius ``radius // downsample``.
    """
    check_stack(stack, "top_hat")
    check_range("top_hat", "radius", radius, 1)
    check_range("top_hat", "downsample", downsample, 1, radius)
    out = np.empty_like(stack, order="C")
    for plane, target in zip(stack, out, strict=True):
        target[...] = _top_hat_plane(plane, radius, downsample)
    return out


def _top_hat_plane(plane: Stack, radius: int, downsample: int) -> Stack:
    import cv2

    native = plane.dtype in (np.uint8, np.uint16, np.float32, np.float64)
    values = np.ascontiguousarray(plane) if native else plane.astype(np.float64)
    height, width = values.shape
    small = values
    if downsample > 1:
        size = (max(1, width // downsample), max(1, height // downsample))
        small = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    background = cv2.morphologyEx(small, cv2.MORPH_OPEN, disk(radius // downsample), borderType=cv2.BORDER_REPLICATE)
    if downsample > 1:
        background = cv2.resize(background, (width, height), interpolation=cv2.INTER_NEAREST)
    if values.dtype.kind == "u":
        saturated: Stack = cv2.subtract(values, background)
        return saturated
    return to_type(np.maximum(values - background, 0), plane.dtype)


def disk(radius: int) -> NDArray[np.uint8]:
    """Return the footprint of a disk, of side ``2 * radius + 1``."""
    steps = np.arange(-radius, radius + 1)
    return (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)
