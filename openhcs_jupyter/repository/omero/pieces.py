"""The objects of a label image, plane by plane, as masks and outlines are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.model import RECORDED, PixelGrid


class Piece(NamedTuple):
    """One object in one plane."""

    label: int
    t: int
    z: int
    y: int
    """First row of its bounding box."""
    x: int
    inside: NDArray[np.bool_]
    """``(height, width)`` of the box: which of its pixels are the object's."""


def pieces_of(labels: NDArray[np.integer[Any]]) -> Iterator[Piece]:
    """Iterate over the objects of a label image, plane by plane.

    Parameters
    ----------
    labels
        ``(T, 1, Z, Y, X)``; 0 is background.
    """
    from scipy import ndimage

    for t, z in np.ndindex(labels.shape[0], labels.shape[2]):
        plane, own = _dense(labels[t, 0, z])
        for number, box in enumerate(ndimage.find_objects(plane), start=1):
            if box is not None:
                rows, columns = box
                label = number if own is None else int(own[number - 1])
                yield Piece(label, t, z, int(rows.start), int(columns.start), plane[box] == number)


def on_recorded(labels: NDArray[np.int64], grid: PixelGrid | None) -> NDArray[np.int64] | None:
    """Return labels as they lie on the recorded planes; None where the grid does not say it in whole pixels.

    Parameters
    ----------
    labels
        ``(T, 1, Z, Y, X)``.
    grid
        How their pixels lie over the recorded ones.
    """
    if grid is None or min(grid.y, grid.x) < 0 or any(part % 1 for part in (grid.factor, grid.y, grid.x)):
        return None
    if grid == RECORDED:
        return labels
    side = int(grid.factor)
    before = ((0, 0), (0, 0), (0, 0), (int(grid.y), 0), (int(grid.x), 0))
    return np.pad(labels.repeat(side, axis=-2).repeat(side, axis=-1), before)


def _dense(plane: NDArray[np.integer[Any]]) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]] | None]:
    """Give objects numbers from 1 where their labels are so large that a place for each up to it would fill the memory.

    Returns
    -------
    plane : ndarray
        With the numbers.
    labels : ndarray or None
        Of the numbers; None where they are the labels.
    """
    if plane.max(initial=0) <= plane.size:
        return plane, None
    numbers, dense = np.unique(plane, return_inverse=True)
    below = int(np.searchsorted(numbers, 0, side="right"))
    return np.maximum(dense.reshape(plane.shape) - (below - 1), 0), numbers[below:]
