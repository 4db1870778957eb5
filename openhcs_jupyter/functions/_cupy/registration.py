"""Kernels of registration: Fourier transforms and interpolation on the GPU; the last fraction of a pixel on a CPU."""

from __future__ import annotations

from typing import Literal

import numpy as np

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import registration
from openhcs_jupyter.functions._checks import channel_index, check_range, check_stack
from openhcs_jupyter.functions._cupy._arrays import Array, as_float, fourier, host, packages, to_type
from openhcs_jupyter.functions.registration import Shift
from openhcs_jupyter.pipeline.contracts import Context, kernel_for


@kernel_for(registration.register_channels, need=30.0)
def register_channels(
    stack: Array, reference: str | int = 0, max_shift: float = 20.0, context: Context | None = None
) -> Array:
    check_stack(stack, "register_channels")
    check_range("register_channels", "max_shift", max_shift, 0)
    fixed = channel_index(reference, context, len(stack), "register_channels")
    out = stack.copy()
    for index in range(len(stack)):
        if index != fixed:
            found = find_shift(stack[fixed], stack[index], max_shift)
            out[index] = to_type(shift_plane(stack[index], found.y, found.x), stack.dtype)
    return out


@kernel_for(registration.register_frames, need=30.0)
def register_frames(stack: Array, to: Literal["first", "previous"] = "first", max_shift: float = 50.0) -> Array:
    check_stack(stack, "register_frames")
    check_range("register_frames", "max_shift", max_shift, 0)
    if to not in ("first", "previous"):
        raise UsageError(f"register_frames: to is {to!r}", 'It is "first" or "previous".')
    out = stack.copy()
    y = x = 0.0
    for index in range(1, len(stack)):
        found = find_shift(stack[0 if to == "first" else index - 1], stack[index], max_shift)
        y, x = (found.y, found.x) if to == "first" else (y + found.y, x + found.x)
        out[index] = to_type(shift_plane(stack[index], y, x), stack.dtype)
    return out


def find_shift(fixed: Array, moving: Array, max_shift: float) -> Shift:
    """Find by how much one plane must be shifted to lie over another, as `registration.find_shift` does."""
    factor, limits = registration.compared_at(fixed.shape, max_shift)
    here, there = _shrunk(fixed, factor), _shrunk(moving, factor)
    if any(bool(plane.min() == plane.max()) for plane in (here, there)):
        return Shift(0.0, 0.0, 0.0)
    start = _peaks(here, there, limits, 1)[0]
    return registration.refined_shift(host(here), host(there), start, factor, max_shift)


def likely_shifts(fixed: Array, moving: Array, max_shift: float, count: int) -> list[tuple[int, int]]:
    """Return the likeliest shifts by whole pixels, as `registration.likely_shifts` does."""
    factor, limits = registration.compared_at(fixed.shape, max_shift)
    here, there = _shrunk(fixed, factor), _shrunk(moving, factor)
    return [(factor * y, factor * x) for y, x in _peaks(here, there, limits, count)]


def shift_plane(plane: Array, y: float, x: float) -> Array:
    """Shift a plane by any fraction of pixels, as `registration.shift_plane` does."""
    if y == 0 and x == 0:
        return plane
    xp = packages(plane).xp
    values = as_float(plane)
    for axis, shift in ((0, y), (1, x)):
        if shift == 0:
            continue
        start = int(np.floor(-shift))
        share = values.dtype.type(-shift - start)
        side = values.shape[axis]
        below, above = (
            values.take(xp.asarray((np.arange(side) + start + more).clip(0, side - 1)), axis=axis) for more in (0, 1)
        )
        values = below * (1 - share) + above * share
    return values


def _shrunk(plane: Array, factor: int) -> Array:
    height, width = (side // factor for side in plane.shape)
    whole = plane[: height * factor, : width * factor].astype(np.float32)
    if factor == 1:
        return whole
    return whole.reshape(height, factor, width, factor).mean(axis=(1, 3))


def _peaks(fixed: Array, moving: Array, limits: list[int], count: int) -> list[tuple[int, int]]:
    xp, fft = packages(fixed).xp, fourier(fixed)
    window, shape, damping = registration.spectral_parts(fixed.shape)
    seen = xp.asarray(window)
    cross = fft.rfft2((fixed - fixed.mean()) * seen, shape)
    cross = cross * fft.rfft2((moving - moving.mean()) * seen, shape).conj()
    strength = xp.abs(cross)
    strength = strength / max(float(strength.max()), float(np.finfo(np.float32).tiny))
    cross = cross / (strength + np.float32(1e-6)) ** np.float32(registration.WHITENED) * xp.asarray(damping)
    correlation = fft.irfft2(cross, shape)
    # Negative places wrap around, as the correlation does.
    rows, columns = (xp.asarray(np.arange(-limit, limit + 1) % side) for limit, side in zip(limits, shape, strict=True))
    return registration.strongest(host(correlation[rows[:, None], columns[None, :]]), limits, count)
