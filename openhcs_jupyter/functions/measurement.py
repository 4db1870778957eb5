"""Measurement of labelled objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_stack
from openhcs_jupyter.pipeline.contracts import Context, measure

if TYPE_CHECKING:
    import pandas as pd

_BOX = ("y_min", "x_min", "y_max", "x_max")
_SHAPE = ("perimeter", "major_axis", "minor_axis", "eccentricity", "orientation")
_INTENSITY = ("mean", "std", "min", "max", "sum")


@measure(stack="channel", need=3.0)
def measure_objects(stack: Stack, labels: NDArray[Any], context: Context | None = None) -> pd.DataFrame:
    """Measure the shape of each labelled object, and its intensity in each channel.

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        One plane a channel, any integer or floating-point type.
    labels : ndarray of shape (Y, X) or (1, Y, X)
        Integers; 0 is background.
    context
        Names the channels and the pixel size; without it channels are numbered from 0.

    Returns
    -------
    DataFrame
        One row an object, by label: ``label``; ``y``, ``x``: centroid in pixels; ``area`` in pixels and, where the
        pixel size is known, ``area_um2``; ``y_min``, ``x_min``, ``y_max``, ``x_max``: the box, its ends not included;
        ``perimeter``, ``major_axis``, ``minor_axis`` in pixels; ``eccentricity``; ``orientation`` in radians; and for
        each channel ``mean_``, ``std_``, ``min_``, ``max_`` and ``sum_`` with the channel's name. Without objects the
        same columns, of the same types, and no rows.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or the labels do not fit the stack.

    Notes
    -----
    Defined as `skimage.measure.regionprops` defines them (perimeter of Benkrid and Crookes, 2000), with the population
    standard deviation. Computed in one pass over the pixels; sums in float64.
    """
    import pandas as pd

    from openhcs_jupyter.functions import _kernels

    check_stack(stack, "measure_objects")
    plane, names = _label_plane(labels, stack.shape[1:])
    present, counted, shapes = _kernels.measure_shapes(plane)
    pixel = context.pixel_size_um if context else None
    columns: dict[str, NDArray[Any]] = {
        "label": present if names is None else names[present],
        "y": shapes[:, 0],
        "x": shapes[:, 1],
        "area": counted[:, 0],
    }
    if pixel is not None:
        columns["area_um2"] = counted[:, 0] * pixel**2
    columns |= {name: counted[:, 1 + i] for i, name in enumerate(_BOX)}
    columns |= {name: shapes[:, 2 + i] for i, name in enumerate(_SHAPE)}
    for channel, image in zip(_channel_names(context, len(stack)), stack, strict=True):
        values = _kernels.measure_intensity(image, plane, present)
        columns |= {f"{what}_{channel}": row for what, row in zip(_INTENSITY, values, strict=True)}
    return pd.DataFrame(columns)


def _label_plane(labels: NDArray[Any], shape: tuple[int, ...]) -> tuple[NDArray[np.int32], NDArray[np.int64] | None]:
    """Return the labels as the kernels take them and, where they had to be renumbered, their own numbers."""
    plane = labels[0] if labels.ndim == 3 and len(labels) == 1 else labels
    if plane.shape != shape:
        raise UsageError(
            f"measure_objects: labels have the shape {labels.shape}, the stack's planes {shape}",
            "Measure planes that the labels were made from, for instance after the same projection.",
        )
    if plane.dtype.kind not in "biu":
        raise UsageError(f"measure_objects: labels are {labels.dtype}; they must be integers")
    if plane.dtype.kind == "i" and plane.min() < 0:
        raise UsageError("measure_objects: some labels are negative", "Number the objects from 1.")
    if plane.max() <= plane.size:
        return np.require(plane, np.int32, ["C", "A"]), None
    numbers, dense = np.unique(np.append(plane.ravel(), 0), return_inverse=True)
    return dense[:-1].reshape(shape).astype(np.int32), numbers.astype(np.int64)


def _channel_names(context: Context | None, count: int) -> tuple[str, ...]:
    if context is not None and len(context.channels) == count:
        return context.channels
    return tuple(str(index) for index in range(count))
