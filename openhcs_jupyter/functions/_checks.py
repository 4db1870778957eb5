"""What the standard functions ask of their arguments, and the casts that they share."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.pipeline.contracts import Context

Stack: TypeAlias = NDArray[Any]
"""Planes ``(N, Y, X)`` of real numbers."""
ROUNDABLE = 1 << 31
"""OpenCV rounds by way of 32 bits: what is not below this becomes 0."""


def check_stack(stack: Stack, function: str) -> None:
    """Refuse what is not a stack of planes of real, finite numbers.

    Raises
    ------
    UsageError
        If `stack` does not have three axes, has an empty one, is complex, or holds NaN or infinity.
    """
    if stack.ndim != 3 or 0 in stack.shape:
        raise UsageError(
            f"{function}: a stack has the shape (N, Y, X) with pixels in it, not {stack.shape}",
            "Return a stack from the step before, or add an axis with image[None].",
        )
    kind = kind_of(stack)
    if kind not in "buif":
        raise UsageError(f"{function}: pixels of type {stack.dtype} are not real numbers")
    if kind == "f":
        bad = int(stack.size - np.count_nonzero(np.isfinite(stack))) if _plain(stack) else _count_bad(stack)
        if bad:
            raise UsageError(
                f"{function}: {bad} of {stack.size} pixels are NaN or infinite",
                "Replace them in a step before, for instance with numpy.nan_to_num.",
            )


def namespace(array: Any) -> Any:
    """Return the functions for arrays of a type: NumPy's, CuPy's, or those of the array API standard."""
    if isinstance(array, np.ndarray):
        return np
    return import_module("cupy") if _plain(array) else array.__array_namespace__()


def host(array: Any) -> Any:
    """Return an array of NumPy's or CuPy's in the memory of the machine; waits for what makes it."""
    return array if isinstance(array, np.ndarray) else array.get()


def kind_of(array: Any) -> str:
    """Return NumPy's letter for the kind of an array's type, whatever package the array is of."""
    kind: str | None = getattr(array.dtype, "kind", None)
    if kind is not None:
        return kind
    xp = namespace(array)
    kinds = {"b": "bool", "u": "unsigned integer", "i": "signed integer", "f": "real floating"}
    return next((letter for letter, name in kinds.items() if xp.isdtype(array.dtype, name)), "c")


def cast(array: Any, dtype: Any) -> Any:
    """Convert an array of any package to a type."""
    return array.astype(dtype) if hasattr(array, "astype") else namespace(array).astype(array, dtype)


def _plain(array: Any) -> bool:
    # CuPy's arrays have NumPy's types and answer NumPy's functions themselves.
    return isinstance(array, np.ndarray) or type(array).__module__.partition(".")[0] == "cupy"


def _count_bad(stack: Any) -> int:
    xp = namespace(stack)
    return int(xp.sum(cast(~xp.isfinite(stack), xp.int64)))


def check_range(function: str, name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Refuse a parameter outside ``low <= value <= high``, NaN included.

    Raises
    ------
    UsageError
        Names the function, the parameter and the range.
    """
    if not low <= value <= high:
        limits = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise UsageError(f"{function}: {name} is {value!r}; it must be {limits}")


def to_type(values: Stack, dtype: np.dtype[Any]) -> Stack:
    """Convert floating-point results to a pixel type.

    Integers are rounded to the nearest, halves to the even one as OpenCV and NumPy do, and clipped to their range.
    """
    if values.dtype == dtype:
        return values
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    if dtype.kind == "b":
        return values >= 0.5
    if dtype in (np.uint8, np.uint16):
        import cv2

        flat = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
        if flat.max() >= ROUNDABLE:
            flat = np.minimum(flat, np.iinfo(dtype).max)
        depth = cv2.CV_8U if dtype == np.uint8 else cv2.CV_16U
        cast: Stack = cv2.addWeighted(flat, 1.0, flat, 0.0, 0.0, dtype=depth).reshape(values.shape)
        return cast
    limits = np.iinfo(dtype)
    # The float below the type's maximum: the maximum itself may round up, and then overflows.
    top = np.nextafter(float(limits.max), 0.0) if limits.bits > 32 else float(limits.max)
    return np.clip(np.rint(values.astype(np.float64)), float(limits.min), top).astype(dtype)


def channel_names(context: Context | None, count: int) -> tuple[str, ...]:
    """Name the planes of a stack along channels; without a context they are numbered from 0."""
    if context is not None and len(context.channels) == count:
        return context.channels
    return tuple(str(index) for index in range(count))


def channel_index(channel: str | int, context: Context | None, count: int, function: str) -> int:
    """Find a channel's plane by its name, or by its place from 0.

    Raises
    ------
    UsageError
        If it is not in the stack; names those that are.
    """
    names = channel_names(context, count)
    if isinstance(channel, str) and channel in names:
        return names.index(channel)
    if isinstance(channel, int) and 0 <= channel < count:
        return channel
    raise UsageError(
        f"{function}: there is no channel {channel!r} in its stack of {', '.join(names)}",
        "A step takes the channels that its channel= names, or all.",
    )


def label_plane(
    labels: NDArray[Any], shape: tuple[int, ...], function: str
) -> tuple[NDArray[np.int32], NDArray[np.int64] | None]:
    """Return labels ``(Y, X)`` as the kernels take them and, where they had to be renumbered, their own numbers.

    The labels stay arrays of their kind; the numbers are of NumPy's.

    Raises
    ------
    UsageError
        If they are not whole numbers of at least 0, or not of the `shape` of the stack's planes.
    """
    plane = labels[0] if labels.ndim == 3 and len(labels) == 1 else labels
    if plane.shape != shape:
        raise UsageError(
            f"{function}: labels have the shape {labels.shape}, the stack's planes {shape}",
            "Labels fit planes that they were made from, for instance after the same projection.",
        )
    if plane.dtype.kind not in "biu":
        raise UsageError(f"{function}: labels are {labels.dtype}; they must be integers")
    if plane.dtype.kind == "i" and plane.min() < 0:
        raise UsageError(f"{function}: some labels are negative", "Number the objects from 1.")
    xp = namespace(plane)
    if plane.max() <= plane.size:
        few = xp.ascontiguousarray(plane, dtype=np.int32)
        return np.require(few, requirements=["A"]) if xp is np else few, None
    background = xp.zeros(1, dtype=plane.dtype)
    numbers, dense = xp.unique(xp.concatenate([plane.ravel(), background]), return_inverse=True)
    return dense[:-1].reshape(shape).astype(np.int32), host(numbers).astype(np.int64)


def label_planes(labels: NDArray[Any], shape: tuple[int, ...], function: str, name: str) -> NDArray[np.int32]:
    """Return labels as planes of int32, one for all planes of a stack of this `shape` or one for each.

    Raises
    ------
    UsageError
        If they are not whole numbers of at least 0, or not of the shape of the stack's planes.
    """
    planes = labels[None] if labels.ndim == 2 else labels
    if planes.ndim != 3 or planes.shape[1:] != shape[1:] or len(planes) not in (1, shape[0]):
        raise UsageError(
            f"{function}: {name} have the shape {labels.shape}, the stack {shape}",
            "Labels fit planes that they were made from, for instance after the same projection.",
        )
    if planes.dtype.kind not in "biu":
        raise UsageError(f"{function}: {name} are {labels.dtype}; they must be integers")
    below = planes.dtype.kind == "i" and planes.min() < 0
    above = planes.dtype.itemsize >= 4 and planes.dtype != np.int32 and planes.max() > np.iinfo(np.int32).max
    if below or above:
        raise UsageError(f"{function}: {name} go from {planes.min()} to {planes.max()}", "Number objects from 1.")
    return planes.astype(np.int32, copy=False)
