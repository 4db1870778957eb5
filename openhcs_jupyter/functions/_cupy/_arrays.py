"""What the kernels share: the packages of an array, casts, sizes of planes."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from openhcs_jupyter.functions._checks import host as host

Array = Any
"""``(N, Y, X)`` of CuPy, or of NumPy."""
TRUNCATE = 4.0


class Packages(NamedTuple):
    """The packages that work on an array."""

    xp: Any
    """`cupy`, or `numpy`."""
    ndimage: Any
    """`cupyx.scipy.ndimage`, or `scipy.ndimage`."""


def packages(array: Array) -> Packages:
    """Return the packages that work on an array."""
    if isinstance(array, np.ndarray):
        return Packages(np, import_module("scipy.ndimage"))
    return Packages(import_module("cupy"), import_module("cupyx.scipy.ndimage"))


def fourier(array: Array) -> Any:
    """Return the Fourier transforms of an array's package: `cupyx.scipy.fft`, or `scipy.fft`."""
    return import_module("scipy.fft" if isinstance(array, np.ndarray) else "cupyx.scipy.fft")


def sums_by(of: Array, values: Array, count: int) -> Array:
    """Add up values by the object that each belongs to, from 0 and below `count`."""
    return packages(of).xp.bincount(of, weights=values.astype(np.float64), minlength=count)


def as_float(array: Array) -> Array:
    """Return an array as float32, or as float64 where it is that."""
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)


def to_type(values: Array, dtype: np.dtype[Any]) -> Array:
    """Convert floating-point results to a pixel type, as `openhcs_jupyter.functions._checks.to_type` does."""
    if values.dtype == dtype:
        return values
    if dtype.kind == "f":
        return values.astype(dtype)
    if dtype.kind == "b":
        return values >= 0.5
    xp = packages(values).xp
    limits = np.iinfo(dtype)
    if limits.bits > 16:
        values = values.astype(np.float64)
    # The float below the type's maximum: the maximum itself may round up, and then overflows.
    top = np.nextafter(float(limits.max), 0.0) if limits.bits > 32 else float(limits.max)
    return xp.clip(xp.rint(values), float(limits.min), float(top)).astype(dtype)


def blur(values: Array, sigma: float) -> Array:
    """Blur each plane of floats with a gaussian; the border is repeated."""
    if sigma == 0:
        return values
    return packages(values).ndimage.gaussian_filter(values, (0, sigma, sigma), mode="nearest", truncate=TRUNCATE)


def opening(values: Array, footprint: Any) -> Array:
    """Open each plane with a flat footprint; the border is repeated."""
    xp, ndimage = packages(values)
    return ndimage.grey_opening(values, footprint=xp.asarray(footprint[None]), mode="nearest")


def resized(values: Array, rows: Any, columns: Any) -> Array:
    """Give planes another size, by the weights of their rows and columns."""
    xp = packages(values).xp
    over = xp.asarray(rows.astype(values.dtype)), xp.asarray(columns.T.astype(values.dtype))
    return xp.ascontiguousarray(over[0] @ values @ over[1])


def area_weights(size: int, length: int) -> Any:
    """Return the weights by which `size` means over equal parts come from `length` pixels: ``(size, length)``.

    A pixel that lies in two parts counts in each with its share, as with OpenCV's ``INTER_AREA``.
    """
    edges = np.arange(size + 1) * (length / size)
    pixels = np.arange(length)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(shared, 0, None) * (size / length)


def linear_weights(size: int, length: int) -> Any:
    """Return the weights by which `size` pixels are interpolated between `length`, whose border is repeated."""
    place = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    below = np.minimum(place.astype(int), max(length - 2, 0))
    weights = np.zeros((size, length))
    weights[np.arange(size), below] = 1 - (place - below)
    if length > 1:
        weights[np.arange(size), below + 1] += place - below
    return weights
