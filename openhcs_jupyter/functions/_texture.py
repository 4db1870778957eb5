"""Texture of labelled objects, from co-occurring grey levels; imported only where it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from openhcs_jupyter.functions._objects import LEVELS, TEXTURES

_LABELS = types.Array(types.int32, 2, "C", readonly=True)
_BOXES = types.Array(types.int64, 2, "C", readonly=True)
_RANGES = types.Array(types.float64, 2, "C", readonly=True)
_FOUND = types.Array(types.float64, 2, "C")
_SIGNATURES = [
    types.void(types.Array(kind, 2, "C", readonly=True), _LABELS, _BOXES, _RANGES, types.int64, _FOUND)
    for kind in (types.uint16, types.float64)
]


@njit(_SIGNATURES, cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def _texture(plane: Any, labels: Any, boxes: Any, ranges: Any, distance: Any, found: Any) -> None:
    levels = LEVELS
    slanted = int(distance * np.sqrt(0.5) + 0.5)
    pairs = np.zeros((levels, levels), dtype=np.float64)
    for i in range(boxes.shape[0]):
        label, top, left, bottom, right = boxes[i]
        low, high = ranges[i]
        scale = levels / (high - low) if high > low else 0.0
        used = 0
        for direction in range(4):
            dy = (0, slanted, distance, slanted)[direction]
            dx = (distance, slanted, 0, -slanted)[direction]
            pairs[:] = 0.0
            count = 0
            for y in range(top, bottom - dy):
                for x in range(max(left, left - dx), min(right, right - dx)):
                    if labels[y, x] != label or labels[y + dy, x + dx] != label:
                        continue
                    a = min(int((plane[y, x] - low) * scale), levels - 1)
                    b = min(int((plane[y + dy, x + dx] - low) * scale), levels - 1)
                    pairs[a, b] += 0.5
                    pairs[b, a] += 0.5
                    count += 1
            if count == 0:
                continue
            used += 1
            mean = 0.0
            for a in range(levels):
                for b in range(levels):
                    pairs[a, b] /= count
                    mean += a * pairs[a, b]
            contrast = homogeneity = energy = entropy = variance = together = 0.0
            for a in range(levels):
                for b in range(levels):
                    share = pairs[a, b]
                    if share == 0.0:
                        continue
                    square = (a - b) * (a - b)
                    contrast += share * square
                    homogeneity += share / (1.0 + square)
                    energy += share * share
                    entropy -= share * np.log(share)
                    variance += share * (a - mean) * (a - mean)
                    together += share * (a - mean) * (b - mean)
            found[i, 0] += contrast
            found[i, 1] += together / variance if variance > 1e-15 else 1.0
            found[i, 2] += homogeneity
            found[i, 3] += np.sqrt(energy)
            found[i, 4] += entropy
        for feature in range(5):
            found[i, feature] = found[i, feature] / used if used else np.nan


def measure_texture(
    plane: NDArray[Any],
    labels: NDArray[np.int32],
    present: NDArray[np.int64],
    boxes: NDArray[np.int64],
    ranges: NDArray[np.float64],
    distance: int,
) -> NDArray[np.float64]:
    """Measure the texture of each label that is `present`.

    Parameters
    ----------
    plane
        Intensities ``(Y, X)``.
    labels
        C-contiguous.
    present, boxes
        The labels, and of each the box: y and x of its start, y and x of its end, which is not included.
    ranges
        Least and greatest intensity of each.
    distance
        Of the pixels that are compared.

    Returns
    -------
    ndarray of shape (5, K), float64
        The `TEXTURES`, means over four directions; NaN where no two pixels of an object lie so far apart.
    """
    if plane.dtype not in (np.uint16, np.float64):
        plane = plane.astype(np.uint16 if plane.dtype in (np.bool_, np.uint8) else np.float64)
    found = np.zeros((len(present), len(TEXTURES)), dtype=np.float64)
    rows = np.ascontiguousarray(np.column_stack([present, boxes]), dtype=np.int64)
    _texture(np.require(plane, requirements=["C", "A"]), labels, rows, np.ascontiguousarray(ranges), distance, found)
    return found.T
