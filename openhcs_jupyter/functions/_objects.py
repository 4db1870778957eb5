"""The table of measured objects, whichever loops go over their pixels; and their shapes, from sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions._checks import Stack, channel_names, check_range, check_stack, label_plane
from openhcs_jupyter.pipeline.contracts import Context

if TYPE_CHECKING:
    import pandas as pd

_BOX = ("y_min", "x_min", "y_max", "x_max")
_SHAPE = ("perimeter", "major_axis", "minor_axis", "eccentricity", "orientation")
_INTENSITY = ("mean", "std", "min", "max", "sum")
TEXTURES = ("contrast", "correlation", "homogeneity", "energy", "entropy")
LEVELS = 32
"""Grey levels of textures between an object's least and greatest intensity."""


class Loops(NamedTuple):
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
    stack: Stack, labels: NDArray[Any], texture: int, neighbours: float, context: Context | None, by: Loops
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
