"""Sums over the pixels of two channels, by object; imported only where colocalisation is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_GROUPS = types.Array(types.int32, 2, "C", readonly=True)
_FOUND = types.Array(types.float64, 2, "C")
_SIGNATURES = [
    types.void(
        types.Array(kind, 2, "C", readonly=True),
        types.Array(kind, 2, "C", readonly=True),
        _GROUPS,
        types.float64,
        types.float64,
        _FOUND,
    )
    for kind in (types.uint16, types.float64)
]


@njit(_SIGNATURES, cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def _sums(one: Any, other: Any, groups: Any, one_limit: Any, other_limit: Any, found: Any) -> None:
    height, width = groups.shape
    for y in range(height):
        for x in range(width):
            group = groups[y, x]
            if group < 0:
                continue
            row = found[group]
            a, b = float(one[y, x]), float(other[y, x])
            if row[0] == 0:
                row[1], row[2] = a, b
            row[0] += 1
            # Differences from one of the object's own values keep their digits where a mean is large.
            da, db = a - row[1], b - row[2]
            row[3] += da
            row[4] += db
            row[5] += da * da
            row[6] += db * db
            row[7] += da * db
            if b > other_limit:
                row[8] += a
            if a > one_limit:
                row[9] += b


def pair_sums(
    one: NDArray[Any],
    other: NDArray[Any],
    groups: NDArray[np.int32],
    limits: tuple[float, float],
    count: int,
) -> NDArray[np.float64]:
    """Add up two planes of one type by group.

    Parameters
    ----------
    one, other
        Intensities ``(Y, X)``.
    groups
        To which object each pixel belongs, from 0; below 0 to none.
    limits
        Above which each plane counts as there.
    count
        How many objects there are.

    Returns
    -------
    ndarray of shape (10, count)
        Pixels; a value of each plane; of the differences from these the two sums, the two sums of squares and the sum
        of products; the sum of each plane where the other is above its limit.
    """
    small = all(plane.dtype in (np.bool_, np.uint8, np.uint16) for plane in (one, other))
    depth = np.uint16 if small else np.float64
    planes = [np.require(plane, depth, ["C", "A"]) for plane in (one, other)]
    found = np.zeros((count, 10), dtype=np.float64)
    _sums(planes[0], planes[1], np.require(groups, np.int32, ["C", "A"]), *limits, found)
    return found.T
