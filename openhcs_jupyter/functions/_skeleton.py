"""Loops over skeletons: their branches, and which cell each belongs to; imported only where neurites are traced."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_MASK = types.Array(types.uint8, 2, "C")
_LABELS = types.Array(types.int32, 2, "C")
_AWAY = types.Array(types.float32, 2, "C")
_GAPS = types.Array(types.float64, 1, "C")
_FOUND = types.Array(types.int64, 2, "C")


@njit(types.void(_MASK, _MASK), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def count_around(skeleton: Any, counts: Any) -> None:
    """Count the neighbours of each pixel of a skeleton, on the skeleton; the border's pixels are not of it."""
    height, width = skeleton.shape
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if skeleton[y, x] == 0:
                continue
            total = 0
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    total += skeleton[y + dy, x + dx]
            counts[y, x] = total - 1


@njit(types.void(_LABELS, _LABELS, _AWAY, types.float64, _FOUND, _GAPS), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def _measure(labels: Any, junctions: Any, away: Any, reach: Any, found: Any, gaps: Any) -> None:
    height, width = labels.shape
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            label = labels[y, x]
            if label == 0:
                continue
            row = found[label]
            row[8] += 1
            along = 0
            straight_junctions = diagonal_junctions = 0
            junction = 0
            top = left = 2
            bottom = right = -2
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if dy == 0 and dx == 0:
                        continue
                    diagonal = dy != 0 and dx != 0
                    if labels[y + dy, x + dx] == label:
                        along += 1
                        row[1 if diagonal else 0] += 1
                    elif junctions[y + dy, x + dx] != 0:
                        junction = junctions[y + dy, x + dx]
                        top, bottom = min(top, dy), max(bottom, dy)
                        left, right = min(left, dx), max(right, dx)
                        if diagonal:
                            diagonal_junctions += 1
                        else:
                            straight_junctions += 1
            if along > 1:
                continue
            ends = 2 - along
            # Pixels of a junction that lie beside each other are one.
            apart = bottom - top > 1 or right - left > 1
            joined = min(ends, 2 if apart else 1, straight_junctions + diagonal_junctions)
            steps = min(joined, straight_junctions)
            # Twice, as steps between two pixels of a branch are met from both.
            row[0] += 2 * steps
            row[1] += 2 * (joined - steps)
            row[2] += ends
            free = ends - joined
            if free > 0 and away[y, x] <= reach:
                free -= 1
                gaps[label] += away[y, x]
            row[3] += free
            if joined == 1:
                # Of a loop both ends meet the same junction.
                row[10] = 1 if row[9] == junction else 0
                row[9] = junction
            at = 4 if row[2] == ends else 6
            row[at], row[at + 1] = y, x
            if ends == 2:
                row[6], row[7] = y, x


@njit(types.void(_MASK, _LABELS, _LABELS), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def spread(skeleton: Any, owner: Any, distance: Any) -> None:
    """Hand the owners of some pixels of a skeleton on along it, to each pixel the nearest one's, in place.

    `distance` is 0 at pixels that have an owner and -1 elsewhere.
    """
    height, width = skeleton.shape
    queue = np.empty((height * width, 2), dtype=np.int32)
    first = last = 0
    for y in range(height):
        for x in range(width):
            if skeleton[y, x] and distance[y, x] == 0:
                queue[last] = y, x
                last += 1
    while first < last:
        y, x = queue[first]
        first += 1
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                ny, nx = y + dy, x + dx
                if not (0 <= ny < height and 0 <= nx < width):
                    continue
                if skeleton[ny, nx] and distance[ny, nx] < 0:
                    distance[ny, nx] = distance[y, x] + 1
                    owner[ny, nx] = owner[y, x]
                    queue[last] = ny, nx
                    last += 1


@njit(types.void(_MASK, _LABELS), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def number_junctions(skeleton: Any, labels: Any) -> None:
    """Give junctions the greatest number of the branches around them, in place."""
    height, width = skeleton.shape
    for _ in range(3):
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                if skeleton[y, x] and labels[y, x] == 0:
                    most = 0
                    for dy in range(-1, 2):
                        for dx in range(-1, 2):
                            most = max(most, labels[y + dy, x + dx])
                    labels[y, x] = most


def branches_of(
    skeleton: NDArray[np.uint8], away: NDArray[np.float32], reach: float
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """Divide a skeleton at its junctions, pixels with three neighbours or more, and measure its branches.

    Parameters
    ----------
    skeleton
        1 on the skeleton; the plane's outermost pixels are not of it.
    away
        How far each pixel is from the nearest cell.
    reach
        A line that ends so near to a cell comes from it.

    Returns
    -------
    labels : ndarray of shape (Y, X), int32
        The branches, numbered from 1; 0 on junctions.
    found : ndarray of shape (K + 1, 11), int64
        By branch: straight steps and diagonal steps, both twice over; ends; ends that are free; y and x of the first
        and of the last end; pixels; a junction; and whether both ends meet that.
    gaps : ndarray of shape (K + 1,), float64
        By branch: how far its ends are from the cells that they come from.
    """
    import cv2

    counts = np.zeros_like(skeleton)
    count_around(skeleton, counts)
    crossing = (counts >= 3).view(np.uint8)
    count, labels = cv2.connectedComponents(skeleton & ~crossing, connectivity=8, ltype=cv2.CV_32S)
    junctions = cv2.connectedComponents(crossing, connectivity=8, ltype=cv2.CV_32S)[1]
    found = np.zeros((count, 11), dtype=np.int64)
    gaps = np.zeros(count, dtype=np.float64)
    _measure(labels, junctions, away, reach, found, gaps)
    return labels, found, gaps
