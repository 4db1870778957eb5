"""Uneven illumination: a flat field estimated over a plate, and its correction."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import ROUNDABLE, Stack, check_range, check_stack, to_type
from openhcs_jupyter.functions.filters import blur_plane
from openhcs_jupyter.pipeline.contracts import Contract, image


class IlluminationState(NamedTuple):
    """What `IlluminationEstimate` holds of the planes that it has seen."""

    planes: int
    shape: tuple[int, ...]
    """Of a plane; empty before the first."""
    total: NDArray[np.float64] | None
    """Sum of the planes' block means."""


class IlluminationEstimate:
    """Estimate the flat field of each channel: the mean of all planes of a plate, smoothed. A reducer.

    ``Step(IlluminationEstimate, {"sigma": 50}, outputs=ImageOutput("flat"))`` makes one float32 image ``(Y, X)`` a
    channel, whose mean is 1 and which is above 0 everywhere. `correct_illumination` divides by it.

    Parameters
    ----------
    sigma
        Standard deviation in pixels of the gaussian that smooths the mean; wider than objects, narrower than the field.

    Raises
    ------
    UsageError
        If `sigma` is negative, a pixel is NaN or infinite, planes differ in size, or the planes' mean is not above 0
        everywhere.

    Notes
    -----
    CellProfiler calls this CorrectIlluminationCalculate (Regular, All, Gaussian). It supposes that objects may lie
    anywhere in a field; take planes of many fields. Pixels are of any integer or floating-point type. Planes are
    added up as float64 means of blocks, of a quarter of `sigma` aside, so that what is held stays small.
    """

    __openhcs__: ClassVar[Contract] = Contract(kind="reducer", need=3.0)

    def __init__(self, sigma: float = 50.0) -> None:
        check_range("IlluminationEstimate", "sigma", sigma, 0, 10000)
        self.sigma = sigma

    def init(self) -> IlluminationState:
        """Return the state of no planes."""
        return IlluminationState(0, (), None)

    def update(self, state: IlluminationState, stack: Stack) -> IlluminationState:
        """Add the planes of a stack ``(N, Y, X)``."""
        check_stack(stack, "IlluminationEstimate")
        total = self._blocks(stack[0])
        for plane in stack[1:]:
            total += self._blocks(plane)
        return self.merge(state, IlluminationState(len(stack), stack.shape[1:], total))

    def merge(self, state: IlluminationState, other: IlluminationState) -> IlluminationState:
        """Add up two states."""
        if state.total is None or other.total is None:
            return other if state.total is None else state
        if state.shape != other.shape:
            raise UsageError(
                f"IlluminationEstimate: some planes have the shape {state.shape}, others {other.shape}",
                "Choose wells whose planes are of one size.",
            )
        return IlluminationState(state.planes + other.planes, state.shape, state.total + other.total)

    def finish(self, state: IlluminationState) -> NDArray[np.float32]:
        """Return the flat field, float32 ``(Y, X)``."""
        import cv2

        if state.total is None:
            raise UsageError("IlluminationEstimate: it was given no planes")
        smooth = blur_plane(state.total / state.planes, self.sigma / self._side)
        height, width = state.shape
        flat: NDArray[np.float64] = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
        if flat.min() <= 0:
            raise UsageError(
                f"IlluminationEstimate: the smoothed mean of {state.planes} planes is {flat.min():g} somewhere",
                "A flat field is above 0 everywhere: estimate it before backgrounds are subtracted.",
            )
        even: NDArray[np.float32] = (flat / flat.mean()).astype(np.float32)
        return even

    @property
    def _side(self) -> int:
        return max(1, int(self.sigma // 4))

    def _blocks(self, plane: Stack) -> NDArray[np.float64]:
        import cv2

        values = np.ascontiguousarray(plane, dtype=np.float64)
        height, width = values.shape
        size = (max(1, width // self._side), max(1, height // self._side))
        means: NDArray[Any] = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
        return means


@image(depth="same", dtype="same", need=6.0, by_plane=True)
def correct_illumination(stack: Stack, flat: NDArray[Any], offset: float = 0.0) -> Stack:
    """Divide each plane by a flat field.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    flat : ndarray of shape (Y, X) or (1, Y, X)
        Relative brightness of the illumination, above 0, as `IlluminationEstimate` makes it.
    offset
        What the camera shows without light; subtracted first.

    Returns
    -------
    ndarray of shape (N, Y, X), type of the stack
        ``(plane - offset) / flat``; integers are rounded and clipped to their range. Computed in float32, float64 in
        float64.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or the flat field has another size or is not above 0 everywhere.
    """
    check_stack(stack, "correct_illumination")
    check_range("correct_illumination", "offset", offset, -1e9, 1e9)
    field = checked_field(flat, stack.shape[1:])
    depth = np.float64 if stack.dtype == np.float64 else np.float32
    gain = np.reciprocal(field.astype(depth))
    out = np.empty_like(stack, order="C")
    native = stack.dtype in (np.uint8, np.uint16) and float(gain.max()) * (65535 + abs(offset)) < ROUNDABLE
    for plane, target in zip(stack, out, strict=True):
        light = plane if native and offset == 0 else plane.astype(depth) - depth(offset)
        if native:
            import cv2

            cv2.multiply(
                np.ascontiguousarray(light),
                gain,
                dst=target,
                dtype=cv2.CV_8U if stack.dtype == np.uint8 else cv2.CV_16U,
            )
        else:
            target[...] = to_type(light * gain, stack.dtype)
    return out


def checked_field(flat: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the flat field of `correct_illumination` as a plane of this shape, above 0 everywhere."""
    field = flat[0] if flat.ndim == 3 and len(flat) == 1 else flat
    if field.shape != shape:
        raise UsageError(
            f"correct_illumination: the flat field has the shape {flat.shape}, the stack's planes {shape}",
            "Estimate it from images of this size, in the same channel.",
        )
    if not (np.isfinite(field).all() and field.min() > 0):
        raise UsageError("correct_illumination: the flat field is not above 0 everywhere")
    return field
