"""Registration: planes that are shifted against each other are laid over each other."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, channel_index, check_range, check_stack, to_type
from openhcs_jupyter.pipeline.contracts import Context, image

_LARGEST = 768
"""Planes with a longer side are compared at a fraction of their size."""
WHITENED = 0.7
"""How far the spectrum is flattened: 1 is phase correlation, in which noise counts as much as structure; 0 none."""
_SMOOTH = 1.0
"""Standard deviation in pixels of the gaussian that takes the noise out of what is compared."""


class Shift(NamedTuple):
    """By how much a plane must be moved to lie over another."""

    y: float
    x: float
    correlation: float
    """Of both planes where they then lie over each other: 1 at best, about 0 if they show nothing in common."""


@image(stack="channel", depth="same", dtype="same", need=18.0)
def register_channels(
    stack: Stack, reference: str | int = 0, max_shift: float = 20.0, context: Context | None = None
) -> Stack:
    """Shift each channel so that it lies over a reference channel.

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        One plane a channel, any integer or floating-point type. Channels must show some structure in common.
    reference
        The channel that stays: its name, or its place in the stack from 0.
    max_shift
        The largest shift in pixels that is looked for, along y and along x.
    context
        Names the channels.

    Returns
    -------
    ndarray of shape (C, Y, X), type of the stack
        Interpolated linearly, as `scipy.ndimage.shift` with order 1 does; the border is repeated. Integers are rounded.
        A channel that shows nothing in common with the reference stays where it is.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, there is no such channel, or `max_shift` is negative.

    Notes
    -----
    See `find_shift` in the same module.
    """
    check_stack(stack, "register_channels")
    check_range("register_channels", "max_shift", max_shift, 0)
    fixed = channel_index(reference, context, len(stack), "register_channels")
    out = np.empty_like(stack, order="C")
    for index, (plane, target) in enumerate(zip(stack, out, strict=True)):
        if index == fixed:
            target[...] = plane
            continue
        found = find_shift(stack[fixed], plane, max_shift)
        target[...] = to_type(shift_plane(plane, found.y, found.x), stack.dtype)
    return out


@image(stack="t", depth="same", dtype="same", need=18.0)
def register_frames(stack: Stack, to: Literal["first", "previous"] = "first", max_shift: float = 50.0) -> Stack:
    """Shift each time point so that it lies over the first: takes the drift of a stage out of a film.

    Parameters
    ----------
    stack : ndarray of shape (T, Y, X)
        One plane a time point, any integer or floating-point type.
    to
        ``"first"`` compares each with the first. ``"previous"`` compares each with the one before and adds up the
        shifts: for films in which the cells change so much that the last is unlike the first.
    max_shift
        The largest shift in pixels between two that are compared, along y and along x.

    Returns
    -------
    ndarray of shape (T, Y, X), type of the stack
        As of `register_channels`.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or a parameter does not fit.
    """
    check_stack(stack, "register_frames")
    check_range("register_frames", "max_shift", max_shift, 0)
    if to not in ("first", "previous"):
        raise UsageError(f"register_frames: to is {to!r}", 'It is "first" or "previous".')
    out = np.empty_like(stack, order="C")
    out[0] = stack[0]
    y = x = 0.0
    for index in range(1, len(stack)):
        found = find_shift(stack[0 if to == "first" else index - 1], stack[index], max_shift)
        y, x = (found.y, found.x) if to == "first" else (y + found.y, x + found.x)
        out[index] = to_type(shift_plane(stack[index], y, x), stack.dtype)
    return out


def find_shift(fixed: Stack, moving: Stack, max_shift: float) -> Shift:
    """Find by how much one plane must be shifted to lie over another.

    Parameters
    ----------
    fixed, moving
        Planes ``(Y, X)`` of one shape.
    max_shift
        The largest shift in pixels along each axis; at most half the plane is looked at.

    Returns
    -------
    Shift
        Pixels along y and x, to a fraction; 0 where a plane is constant or both have nothing in common.

    Notes
    -----
    First a phase correlation (Kuglin and Hines, 1975) of planes under a Hann window finds the whole pixels. Its
    spectrum is flattened in part only and smoothed, for in a flat one the noise of the empty frequencies decides. Then
    `cv2.findTransformECC` (Evangelidis and Psarakis, 2008) moves what both planes show on top of each other, where
    their correlation is greatest; brightness and contrast may differ. On cells under noise a fifth as high as they are
    the error is below 0.1 pixels. Planes of more than 768 pixels aside are compared at half their size or less.
    """
    factor, limits = compared_at(fixed.shape, max_shift)
    here, there = _shrunk(fixed, factor), _shrunk(moving, factor)
    if any(plane.min() == plane.max() for plane in (here, there)):
        return Shift(0.0, 0.0, 0.0)
    return refined_shift(here, there, _peaks(here, there, limits, 1)[0], factor, max_shift)


def compared_at(shape: tuple[int, ...], max_shift: float) -> tuple[int, list[int]]:
    """Return by what factor planes are shrunk before they are compared, and the largest shifts that are looked at."""
    factor = -(-max(shape) // _LARGEST)
    return factor, [min(int(max_shift / factor), (side // factor - 1) // 2) for side in shape]


def refined_shift(
    here: NDArray[np.float32], there: NDArray[np.float32], start: tuple[int, int], factor: int, max_shift: float
) -> Shift:
    """Make a shift by whole pixels of shrunken planes exact, as `find_shift` says."""
    import cv2

    y, x = start
    first, second = _common(here, there, y, x)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-4)
    try:
        correlation, matrix = cv2.findTransformECC(
            first, second, np.eye(2, 3, dtype=np.float32), cv2.MOTION_TRANSLATION, criteria, None, 5
        )
    except cv2.error:
        # It raises where there is nothing in common.
        return Shift(0.0, 0.0, 0.0)
    fine_y, fine_x = -float(matrix[1, 2]), -float(matrix[0, 2])
    if not (abs(fine_y) <= 2 and abs(fine_x) <= 2):
        return Shift(0.0, 0.0, 0.0)
    limit = float(max_shift)
    y_found, x_found = (float(np.clip(factor * value, -limit, limit)) for value in (y + fine_y, x + fine_x))
    return Shift(y_found, x_found, float(correlation))


def _shrunk(plane: Stack, factor: int) -> NDArray[np.float32]:
    import cv2

    if factor == 1:
        return np.ascontiguousarray(plane, dtype=np.float32)
    height, width = (side // factor for side in plane.shape)
    whole = plane[: height * factor, : width * factor].astype(np.float32)
    means: NDArray[np.float32] = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    return means


def likely_shifts(fixed: Stack, moving: Stack, max_shift: float, count: int) -> list[tuple[int, int]]:
    """Return the whole pixels, along y and x, by which one plane most likely must be shifted to lie over another.

    Parameters
    ----------
    fixed, moving, max_shift
        As of `find_shift`.
    count
        How many are wanted, the likeliest first; fewer where there are no more.
    """
    factor, limits = compared_at(fixed.shape, max_shift)
    here, there = _shrunk(fixed, factor), _shrunk(moving, factor)
    return [(factor * y, factor * x) for y, x in _peaks(here, there, limits, count)]


def _peaks(
    fixed: NDArray[np.float32], moving: NDArray[np.float32], limits: list[int], count: int
) -> list[tuple[int, int]]:
    from scipy import fft

    window, shape, damping = spectral_parts(fixed.shape)
    cross = fft.rfft2((fixed - fixed.mean()) * window, shape)
    cross *= fft.rfft2((moving - moving.mean()) * window, shape).conj()
    strength = np.abs(cross)
    strength /= max(float(strength.max()), np.finfo(np.float32).tiny)
    cross /= (strength + np.float32(1e-6)) ** np.float32(WHITENED)
    cross *= damping
    correlation = fft.irfft2(cross, shape)
    # Negative places wrap around, as the correlation does.
    return strongest(correlation[np.ix_(*(np.arange(-limit, limit + 1) for limit in limits))], limits, count)


def spectral_parts(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], list[int], NDArray[np.float32]]:
    """Return the window, the size of the transform and the damping of its frequencies, for planes of a shape."""
    from scipy import fft

    window = _hann(shape[0])[:, None] * _hann(shape[1])
    sides = [int(fft.next_fast_len(side, real=True)) for side in shape]
    rows, columns = (
        np.exp(-((2 * np.pi * _SMOOTH * frequencies) ** 2)).astype(np.float32)
        for frequencies in (fft.fftfreq(sides[0]), fft.rfftfreq(sides[1]))
    )
    return window, sides, rows[:, None] * columns


def strongest(near: NDArray[np.float32], limits: list[int], count: int) -> list[tuple[int, int]]:
    """Return the shifts of the highest peaks of a correlation around no shift, which is overwritten."""
    found = []
    for _ in range(min(count, near.size)):
        y, x = map(int, np.unravel_index(int(np.argmax(near)), near.shape))
        if near[y, x] == -np.inf:
            break
        found.append((y - limits[0], x - limits[1]))
        # What is beside a peak is of the same.
        near[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = -np.inf
    return found


def _hann(length: int) -> NDArray[np.float32]:
    # Not 0 at its ends, so that a plane of one or two pixels keeps something.
    return (np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2).astype(np.float32)


def _common(
    fixed: NDArray[np.float32], moving: NDArray[np.float32], y: int, x: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the parts of two planes that show the same once `moving` is shifted by whole pixels."""
    height, width = fixed.shape[0] - abs(y), fixed.shape[1] - abs(x)
    first = fixed[max(0, y) : max(0, y) + height, max(0, x) : max(0, x) + width]
    second = moving[max(0, -y) : max(0, -y) + height, max(0, -x) : max(0, -x) + width]
    return np.ascontiguousarray(first), np.ascontiguousarray(second)


def shift_plane(plane: Stack, y: float, x: float) -> NDArray[Any]:
    """Shift a plane by any fraction of pixels with linear interpolation; the border is repeated.

    Returns
    -------
    ndarray of shape (Y, X)
        float32, or float64 of a float64 plane; the plane itself where there is no shift.
    """
    if y == 0 and x == 0:
        return plane
    import cv2

    values = np.ascontiguousarray(plane, dtype=np.float64 if plane.dtype == np.float64 else np.float32)
    # One axis after the other: OpenCV's warp rounds fractions to a thirty-second of a pixel.
    for axis, shift in ((0, y), (1, x)):
        if shift == 0:
            continue
        start = int(np.floor(-shift))
        share = -shift - start
        taps = np.array([1 - share, share]).reshape((2, 1) if axis == 0 else (1, 2))
        side = values.shape[axis]
        places = (np.arange(side + 1) + start).clip(0, side - 1)
        padded = np.ascontiguousarray(values.take(places, axis=axis))
        anchor = (0, 0)
        mixed = cv2.filter2D(padded, -1, taps, anchor=anchor, borderType=cv2.BORDER_REPLICATE)
        values = mixed[:side] if axis == 0 else mixed[:, :side]
    return values
