"""Label images as OMERO's masks: one ROI an object, one mask for each plane in which it lies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Mask(NamedTuple):
    """One object in one plane."""

    label: int
    t: int
    z: int
    y: int
    x: int
    height: int
    width: int
    bits: bytes
    """The bounding box, row by row, a bit a pixel, the highest bit first."""


def masks_of(labels: NDArray[np.integer[Any]]) -> Iterator[Mask]:
    """Iterate over the objects of a label image, plane by plane.

    Parameters
    ----------
    labels
        ``(T, 1, Z, Y, X)``; 0 is background.
    """
    for t in range(labels.shape[0]):
        for z in range(labels.shape[2]):
            yield from _masks_of_plane(labels[t, 0, z], t, z)


def _masks_of_plane(plane: NDArray[np.integer[Any]], t: int, z: int) -> Iterator[Mask]:
    from scipy import ndimage

    for index, box in enumerate(ndimage.find_objects(plane)):
        if box is None:
            continue
        inside = plane[box] == index + 1
        rows, columns = box
        yield Mask(
            label=index + 1,
            t=t,
            z=z,
            y=int(rows.start),
            x=int(columns.start),
            height=int(rows.stop - rows.start),
            width=int(columns.stop - columns.start),
            bits=np.packbits(inside).tobytes(),
        )
