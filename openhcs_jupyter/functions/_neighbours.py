"""Which labelled objects lie beside each other; imported only where it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_LABELS = types.Array(types.int32, 2, "C", readonly=True)
_ROWS = types.Array(types.int64, 2, "C", readonly=True)
_COUNTS = types.Array(types.int64, 1, "C")


@njit(types.void(_LABELS, _ROWS, _ROWS, _COUNTS), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def _neighbours(labels: Any, boxes: Any, offsets: Any, counts: Any) -> None:
    height, width = labels.shape
    seen = np.zeros(labels.max() + 1, dtype=np.int64)
    for i in range(boxes.shape[0]):
        label, top, left, bottom, right = boxes[i]
        for y in range(top, bottom):
            for x in range(left, right):
                if labels[y, x] != label:
                    continue
                inner = (
                    0 < y < height - 1
                    and 0 < x < width - 1
                    and labels[y - 1, x] == label
                    and labels[y + 1, x] == label
                    and labels[y, x - 1] == label
                    and labels[y, x + 1] == label
                )
                if inner:
                    continue
                for j in range(offsets.shape[0]):
                    ny, nx = y + offsets[j, 0], x + offsets[j, 1]
                    if not (0 <= ny < height and 0 <= nx < width):
                        continue
                    other = labels[ny, nx]
                    if other != 0 and other != label and seen[other] != label:
                        seen[other] = label
                        counts[i] += 1


def count_neighbours(
    labels: NDArray[np.int32], present: NDArray[np.int64], boxes: NDArray[np.int64], distance: float
) -> NDArray[np.int64]:
    """Count for each label that is `present` the others that have a pixel within `distance` of one of its own."""
    reach = int(distance)
    steps = np.arange(-reach, reach + 1)
    y, x = (part.ravel() for part in np.meshgrid(steps, steps, indexing="ij"))
    near = (y * y + x * x <= distance * distance) & ((y != 0) | (x != 0))
    counts = np.zeros(len(present), dtype=np.int64)
    rows = np.ascontiguousarray(np.column_stack([present, boxes]), dtype=np.int64)
    _neighbours(labels, rows, np.ascontiguousarray(np.column_stack([y[near], x[near]]), dtype=np.int64), counts)
    return counts
