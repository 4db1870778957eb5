"""Measurement of labelled objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions._checks import Stack, check_stack, label_plane, namespace
from openhcs_jupyter.functions._objects import Loops, objects_table
from openhcs_jupyter.pipeline.contracts import EVERY, Context, measure

if TYPE_CHECKING:
    import pandas as pd


@measure(stack="channel", need=3.0)
def measure_objects(
    stack: Stack,
    labels: NDArray[Any],
    texture: int = 0,
    neighbours: float = 0.0,
    context: Context | None = None,
) -> pd.DataFrame:
    """Measure each labelled object: its shape, its intensity in each channel; if asked for, texture and neighbours.

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        One plane a channel, any integer or floating-point type.
    labels : ndarray of shape (Y, X) or (1, Y, X)
        Integers; 0 is background.
    texture
        Measure the texture, too, from pixels so far apart; 0 leaves it out.
    neighbours
        Count as neighbours the objects that come so near, in pixels from edge to edge; 1 is touching, 0 leaves it out.
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
        With `texture` for each channel ``contrast_``, ``correlation_``, ``homogeneity_``, ``energy_`` and ``entropy_``.
        With `neighbours` their number ``neighbours``, and ``nearest``: the distance in pixels from centroid to centroid
        of the nearest other object, NaN where there is none.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, the labels do not fit the stack, or a parameter does not fit.

    Notes
    -----
    Texture is Haralick's (1973), as `skimage.feature.graycoprops` computes it from the pairs of pixels within an object
    (entropy with the natural logarithm), in 32 grey levels between the object's least and greatest intensity: so it
    does not depend on brightness or contrast. It is the mean over four directions; a pair counts both ways.

    All else is defined as `skimage.measure.regionprops` defines it (perimeter of Benkrid and Crookes, 2000), with the
    population standard deviation. Computed in one pass over the pixels; sums in float64.
    """
    from openhcs_jupyter.functions import _kernels

    def count_neighbours(*arguments: Any) -> NDArray[np.int64]:
        from openhcs_jupyter.functions import _neighbours

        return _neighbours.count_neighbours(*arguments)

    def measure_texture(*arguments: Any) -> NDArray[np.float64]:
        from openhcs_jupyter.functions import _texture

        return _texture.measure_texture(*arguments)

    loops = Loops(_kernels.measure_shapes, _kernels.measure_intensity, measure_texture, count_neighbours)
    return objects_table(stack, labels, texture, neighbours, context, loops)


@measure(stack="channel", need=10.0, memory=EVERY)
def count_objects(stack: Stack, labels: NDArray[Any]) -> dict[str, int | float]:
    """Count labelled objects.

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        Planes that the labels were made from; only their size matters.
    labels : ndarray of shape (Y, X) or (1, Y, X)
        Integers; 0 is background.

    Returns
    -------
    dict
        ``objects``: how many labels there are; ``covered``: their share of the plane, from 0 to 1.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or the labels do not fit the stack.
    """
    check_stack(stack, "count_objects")
    plane, _ = label_plane(labels, stack.shape[1:], "count_objects")
    areas = namespace(plane).bincount(plane.ravel())[1:]
    return {"objects": int((areas > 0).sum()), "covered": float(areas.sum()) / plane.size}
