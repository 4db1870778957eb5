"""Label images as OMERO's polygons: smaller to draw and to edit than masks, but without the holes of objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.repository.omero.pieces import pieces_of


class Outline(NamedTuple):
    """One piece of an object in one plane."""

    label: int
    t: int
    z: int
    points: str
    """As OMERO has them: ``x,y x,y``, where the first pixel reaches from 0 to 1."""


def outlines_of(labels: NDArray[np.integer[Any]]) -> Iterator[Outline]:
    """Iterate over the pieces of the objects of a label image, plane by plane.

    A pixel is in an outline exactly if its centre is, and if it is of the object or in a hole of it.

    Parameters
    ----------
    labels
        ``(T, 1, Z, Y, X)``; 0 is background.
    """
    import cv2

    for piece in pieces_of(labels):
        # OpenCV's contours run through the centres of pixels. Of an image of twice the size these lie between centre
        # and edge of the pixels here, so that even one pixel has an outline around its centre.
        doubled = piece.inside.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        corner = np.array([piece.x, piece.y])
        for contour in cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
            points = corner + (contour[:, 0] + 0.5) / 2
            text = " ".join(f"{x:g},{y:g}" for x, y in points.tolist())
            yield Outline(label=piece.label, t=piece.t, z=piece.z, points=text)
