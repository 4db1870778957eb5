"""Label images as OMERO's masks: one ROI an object, one mask for each plane in which it lies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.repository.omero.pieces import pieces_of


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
    for piece in pieces_of(labels):
        height, width = piece.inside.shape
        yield Mask(
            label=piece.label,
            t=piece.t,
            z=piece.z,
            y=piece.y,
            x=piece.x,
            height=height,
            width=width,
            bits=np.packbits(piece.inside).tobytes(),
        )
