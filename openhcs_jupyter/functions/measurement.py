"""Measurement of labelled objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions._checks import Stack, channel_names, check_range, check_stack, label_plane, namespace
from openhcs_jupyter.pipeline.contracts import EVERY, Context, measure

if TYPE_CHECKING:
    import pandas as pd

_BOX = ("y_min", "x_min", "y_max", "x_max")
_SHAPE = ("perimeter", "major_axis", "minor_axis", "eccentricity", "orientation")
_INTENSITY = ("mean", "std", "min", "max", "sum")
TEXTURES = ("contrast", "correlation", "homogeneity", "energy", "entropy")
LEVELS = 32
"""Grey levels of textures between an object's least and greatest intensity."""


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

    loops = Measures(_kernels.measure_shapes, _kernels.measure_intensity, measure_texture, count_neighbours)
    return objects_table(stack, labels, texture, neighbours, context, loops)


class Measures(NamedTuple):
    """What measures the objects of arrays of one kind; all return arrays of NumPy."""

    shapes: Callable[..., tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]
    """As `openhcs_jupyter.functions._kernels.measure_shapes`."""
    intensity: Callable[..., NDArray[np.float64]]
    """As `openhcs_jupyter.functions._kernels.measure_intensity`."""
    texture: Callable[..., NDArray[np.float64]]
    """As `openhcs_jupyter.functions._texture.measure_texture`."""
    neighbours: Callable[..., NDArray[np.int64]]
    """As `openhcs_jupyter.functions._neighbours.count_neighbours`."""


def objects_table(
    stack: Stack, labels: NDArray[Any], texture: int, neighbours: float, context: Context | None, by: Measures
) -> pd.DataFrame:
    """Make the table of `measure_objects`, whose parameters these are.

    Raises
    ------
    UsageError
        As of `measure_objects`.
    """
    import pandas as pd

    check_stack(stack, "measure_objects")
    check_range("measure_objects", "texture", texture, 0, 1000)
    check_range("measure_objects", "neighbours", neighbours, 0, 1000)
    plane, names = label_plane(labels, stack.shape[1:], "measure_objects")
    present, counted, shapes = by.shapes(plane)
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
    for channel, image in zip(channel_names(context, len(stack)), stack, strict=True):
        values = by.intensity(image, plane, present)
        columns |= {f"{what}_{channel}": row for what, row in zip(_INTENSITY, values, strict=True)}
        if texture:
            found = by.texture(image, plane, present, counted[:, 1:], values[2:4].T, int(texture))
            columns |= {f"{what}_{channel}": row for what, row in zip(TEXTURES, found, strict=True)}
    if neighbours:
        columns["neighbours"] = by.neighbours(plane, present, counted[:, 1:], neighbours)
        columns["nearest"] = _nearest(shapes[:, 0], shapes[:, 1])
    return pd.DataFrame(columns)


def shapes_of(
    area: NDArray[np.int64], sums: Sequence[NDArray[Any]], perimeter: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the shapes of objects from the sums over their pixels.

    Parameters
    ----------
    area
        Their pixels.
    sums
        Of y, x, y * y, x * x and y * x.
    perimeter
        In pixels.

    Returns
    -------
    ndarray of shape (K, 7), float64
        Centroid y and x, perimeter, major and minor axis, eccentricity, orientation.
    """
    y, x = sums[0] / area, sums[1] / area
    yy = sums[2] / area - y * y
    xx = sums[3] / area - x * x
    yx = sums[4] / area - y * x
    middle = (yy + xx) / 2
    half = np.hypot((yy - xx) / 2, yx)
    major, minor = middle + half, np.clip(middle - half, 0, None)
    with np.errstate(invalid="ignore", divide="ignore"):
        eccentricity = np.where(major > 0, np.sqrt(1 - minor / major), 0.0)
    orientation = 0.5 * np.arctan2(2 * yx, yy - xx)
    return np.stack([y, x, perimeter, 4 * np.sqrt(major), 4 * np.sqrt(minor), eccentricity, orientation], axis=1)


def _nearest(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each centre to the nearest other one; NaN where there is none."""
    if len(y) < 2:
        return np.full(len(y), np.nan)
    from scipy.spatial import cKDTree

    places = np.column_stack([y, x])
    distances: NDArray[np.float64] = cKDTree(places).query(places, k=2)[0][:, 1]
    return distances


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
