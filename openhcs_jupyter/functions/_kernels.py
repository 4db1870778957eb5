"""Loops over labelled pixels, compiled by numba; imported only where objects are found and measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from openhcs_jupyter.functions._objects import shapes_of

_DIAGONAL = np.sqrt(2.0)
_LABELS = types.Array(types.int32, 2, "C", readonly=True)
_COUNTED = types.Array(types.int64, 2, "C")
_LENGTHS = types.Array(types.float64, 1, "C")
_SUMS = types.Array(types.float64, 2, "C")
_WRITABLE = types.Array(types.int32, 2, "C")
_NUMBERS = types.Array(types.int32, 1, "C", readonly=True)
_OWNERS = types.Array(types.int64, 1, "C")
_INTENSITY = [
    types.void(types.Array(kind, 2, "C", readonly=True), _LABELS, _SUMS) for kind in (types.uint16, types.float64)
]


@njit(types.void(_LABELS, _COUNTED, _LENGTHS), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def _outline(labels: Any, counted: Any, lengths: Any) -> None:
    """Add up area, box, moments and perimeter of each label.

    `counted` has the columns area, box (4), and the sums of y, x, yy, xx and yx.
    """
    height, width = labels.shape
    edge = np.zeros((height, width), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            row = counted[label]
            if row[0] == 0:
                row[1], row[2] = y, x
            row[0] += 1
            row[2] = min(row[2], x)
            row[3] = y + 1
            row[4] = max(row[4], x + 1)
            row[5] += y
            row[6] += x
            row[7] += y * y
            row[8] += x * x
            row[9] += y * x
            inner = (
                0 < y < height - 1
                and 0 < x < width - 1
                and labels[y - 1, x] == label
                and labels[y + 1, x] == label
                and labels[y, x - 1] == label
                and labels[y, x + 1] == label
            )
            edge[y, x] = not inner
    for y in range(height):
        for x in range(width):
            if edge[y, x] == 0:
                continue
            label = labels[y, x]
            straight = 0
            diagonal = 0
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if not (0 <= y + dy < height and 0 <= x + dx < width):
                        continue
                    if edge[y + dy, x + dx] and labels[y + dy, x + dx] == label:
                        if dy != 0 and dx != 0:
                            diagonal += 1
                        elif dy != 0 or dx != 0:
                            straight += 1
            # The weights of Benkrid and Crookes by a pixel's neighbours on the outline.
            if straight >= 2 and diagonal <= 2 and straight <= 3:
                lengths[label] += 1.0
            elif (straight == 0 and diagonal == 2) or (straight == 1 and diagonal == 3):
                lengths[label] += _DIAGONAL
            elif straight == 1 and diagonal in (1, 2):
                lengths[label] += (1.0 + _DIAGONAL) / 2


@njit(_INTENSITY, cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def _intensity(plane: Any, labels: Any, sums: Any) -> None:
    """Add up the intensities of each label.

    `sums` has the columns first value, sum and sum of squares of the differences from it, least, greatest, count.
    """
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            value = float(plane[y, x])
            row = sums[label]
            if row[5] == 0:
                row[0] = row[3] = row[4] = value
            # Differences from one of the object's own values keep their digits where a mean is large.
            difference = value - row[0]
            row[1] += difference
            row[2] += difference * difference
            row[3] = min(row[3], value)
            row[4] = max(row[4], value)
            row[5] += 1


@njit(types.void(_LABELS, _COUNTED), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def _extents(labels: Any, found: Any) -> None:
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            row = found[label]
            if row[0] == 0:
                row[1] = y * width + x
                row[2], row[3] = y, x
            row[0] += 1
            row[3] = min(row[3], x)
            row[4] = y + 1
            row[5] = max(row[5], x + 1)


@njit(types.void(_WRITABLE, _NUMBERS), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def renumber(labels: Any, numbers: Any) -> None:
    """Give each label of a plane its new number, in place."""
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            if labels[y, x] != 0:
                labels[y, x] = numbers[labels[y, x]]


@njit(types.void(_LABELS, _LABELS, _OWNERS), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def _owners(inner: Any, outer: Any, owner: Any) -> None:
    height, width = inner.shape
    for y in range(height):
        for x in range(width):
            if inner[y, x] != 0:
                owner[inner[y, x]] = outer[y, x]


def extents(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return area, first pixel in raster order and box (start y, x; end y, x, not included) of labels below `count`.

    Returns
    -------
    ndarray of shape (count, 6), int64
        Zeros in the rows of 0 and of labels that do not occur.
    """
    found = np.zeros((count, 6), dtype=np.int64)
    _extents(labels, found)
    return found


def owners(inner: NDArray[np.int32], outer: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return in which label of `outer` each label of `inner`, below `count`, lies."""
    owner = np.zeros(count, dtype=np.int64)
    _owners(inner, outer, owner)
    return owner


def measure_shapes(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Measure the shape of each label of a C-contiguous plane; labels are at least 0 and at most its size.

    Returns
    -------
    present : ndarray of shape (K,), int64
        The labels that occur, ascending.
    counted : ndarray of shape (K, 5), int64
        Area and box: y and x of its start, y and x of its end, which is not included.
    shapes : ndarray of shape (K, 7), float64
        Centroid y and x, perimeter, major and minor axis, eccentricity, orientation.
    """
    size = int(labels.max()) + 1
    counted = np.zeros((size, 10), dtype=np.int64)
    lengths = np.zeros(size, dtype=np.float64)
    _outline(labels, counted, lengths)
    present = np.flatnonzero(counted[:, 0])
    counted = counted[present]
    sums = [counted[:, column] for column in range(5, 10)]
    return present, counted[:, :5], shapes_of(counted[:, 0], sums, lengths[present])


def measure_intensity(
    plane: NDArray[Any], labels: NDArray[np.int32], present: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Measure the intensity of each label that is `present`.

    Returns
    -------
    ndarray of shape (5, K), float64
        Mean, standard deviation, least, greatest and sum.
    """
    if plane.dtype not in (np.uint16, np.float64):
        plane = plane.astype(np.uint16 if plane.dtype in (np.bool_, np.uint8) else np.float64)
    sums = np.zeros((int(labels.max()) + 1, 6), dtype=np.float64)
    _intensity(np.require(plane, requirements=["C", "A"]), labels, sums)
    first, total, squares, least, greatest, count = sums[present].T
    shift = total / count
    variance = np.clip(squares / count - shift * shift, 0, None)
    return np.stack([first + shift, np.sqrt(variance), least, greatest, first * count + total])
