"""Kernel of the measurement of objects: sums, extremes, outlines, textures and neighbours by label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions import measurement
from openhcs_jupyter.functions._cupy._arrays import Array, host, packages, sums_by
from openhcs_jupyter.functions._objects import LEVELS, TEXTURES, Loops, objects_table, shapes_of
from openhcs_jupyter.pipeline.contracts import Context, kernel_for

if TYPE_CHECKING:
    import pandas as pd

_STRAIGHT = ((-1, 0), (1, 0), (0, -1), (0, 1))
_SLANTED = ((-1, -1), (-1, 1), (1, -1), (1, 1))
_AT_ONCE = 512
"""Objects whose pairs of grey levels are counted together."""


@kernel_for(measurement.measure_objects, need=60.0)
def measure_objects(
    stack: Array,
    labels: Array,
    texture: int = 0,
    neighbours: float = 0.0,
    context: Context | None = None,
) -> pd.DataFrame:
    by = Loops(_shapes, _intensity, _texture, _neighbours)
    return objects_table(stack, labels, texture, neighbours, context, by)


def _shapes(plane: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Measure shapes as `openhcs_jupyter.functions._kernels.measure_shapes` does."""
    xp, ndimage = packages(plane)
    flat = plane.ravel()
    places = xp.flatnonzero(flat)
    if places.size == 0:
        return np.zeros(0, np.int64), np.zeros((0, 5), np.int64), np.zeros((0, 7))
    present, of = xp.unique(flat[places], return_inverse=True)
    count = len(present)
    y, x = xp.divmod(places, plane.shape[1])
    area = host(xp.bincount(of, minlength=count))
    # Sums of whole numbers below 2**53: exact in whatever order they are added.
    sums = [host(sums_by(of, values, count)) for values in (y, x, y * y, x * x, y * x)]
    numbers = xp.arange(count)
    box = [ndimage.minimum(y, of, numbers), ndimage.minimum(x, of, numbers)]
    box += [ndimage.maximum(y, of, numbers) + 1, ndimage.maximum(x, of, numbers) + 1]
    counted = np.stack([area, *(host(side) for side in box)], axis=1).astype(np.int64)
    shapes = shapes_of(area, sums, _perimeters(plane, places, of, count))
    return host(present).astype(np.int64), counted, shapes


def _perimeters(plane: Array, places: Array, of: Array, count: int) -> NDArray[np.float64]:
    """Measure outlines by how the neighbours of their pixels lie (Benkrid and Crookes, 2000)."""
    xp = packages(plane).xp
    around = xp.pad(plane, 1)

    def neighbours(labels: Array, sides: tuple[tuple[int, int], ...]) -> Array:
        """Count the neighbours of each pixel that have its label, of labels with a border."""
        height, width = plane.shape
        own = labels[1:-1, 1:-1]
        total = xp.zeros(plane.shape, dtype=np.int8)
        for dy, dx in sides:
            total += labels[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] == own
        return total

    outline = xp.pad(xp.where(neighbours(around, _STRAIGHT) < 4, plane, 0), 1)
    on = outline[1:-1, 1:-1].ravel()[places] > 0
    straight, slanted = (neighbours(outline, sides).ravel()[places] for sides in (_STRAIGHT, _SLANTED))
    one = on & (straight >= 2) & (straight <= 3) & (slanted <= 2)
    root = on & (((straight == 0) & (slanted == 2)) | ((straight == 1) & (slanted == 3)))
    half = on & (straight == 1) & ((slanted == 1) | (slanted == 2))
    counts = [host(xp.bincount(of[chosen], minlength=count)) for chosen in (one, root, half)]
    lengths: NDArray[np.float64] = counts[0] + counts[1] * np.sqrt(2) + counts[2] * (1 + np.sqrt(2)) / 2
    return lengths


def _intensity(image: Array, plane: Array, present: NDArray[np.int64]) -> NDArray[np.float64]:
    """Measure intensities as `openhcs_jupyter.functions._kernels.measure_intensity` does."""
    if not len(present):
        return np.zeros((5, 0))
    xp, ndimage = packages(plane)
    values, of = _pixels(image, plane, present)
    numbers = xp.arange(len(present))
    count = xp.bincount(of, minlength=len(present))
    least, greatest = ndimage.minimum(values, of, numbers), ndimage.maximum(values, of, numbers)
    # Differences from one of the object's own values keep their digits where a mean is large.
    over = values - least[of]
    total, squares = sums_by(of, over, len(present)), sums_by(of, over * over, len(present))
    shift = total / count
    spread = xp.sqrt(xp.clip(squares / count - shift * shift, 0, None))
    found: NDArray[np.float64] = host(xp.stack([least + shift, spread, least, greatest, least * count + total]))
    return found


def _pixels(image: Array, plane: Array, present: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the intensities of the pixels of objects as float64, and the object of each from 0."""
    xp = packages(plane).xp
    flat = plane.ravel()
    places = xp.flatnonzero(flat)
    return image.ravel()[places].astype(np.float64), xp.searchsorted(xp.asarray(present), flat[places])


def _texture(
    image: Array,
    plane: Array,
    present: NDArray[np.int64],
    boxes: NDArray[np.int64],  # noqa: ARG001 - objects are not looked at one by one
    ranges: NDArray[np.float64],
    distance: int,
) -> NDArray[np.float64]:
    """Measure textures as `openhcs_jupyter.functions._texture.measure_texture` does."""
    xp = packages(plane).xp
    levels, count = LEVELS, len(present)
    if count == 0:
        return np.zeros((len(TEXTURES), 0))
    low, span = ranges[:, 0], ranges[:, 1] - ranges[:, 0]
    scale = np.divide(levels, span, out=np.zeros(count), where=span > 0)
    rank = xp.searchsorted(xp.asarray(present), plane.ravel()).reshape(plane.shape)
    rank = xp.where(plane > 0, rank, 0)
    grey = (image.astype(np.float64) - xp.asarray(low)[rank]) * xp.asarray(scale)[rank]
    grey = xp.clip(grey, 0, levels - 1).astype(np.int64)
    slanted = int(distance * np.sqrt(0.5) + 0.5)
    parts = []
    for start in range(0, count, _AT_ONCE):
        some = min(_AT_ONCE, count - start)
        inside = (plane > 0) & (rank >= start) & (rank < start + some)
        total, used = xp.zeros((5, some)), xp.zeros(some)
        for dy, dx in ((0, distance), (slanted, slanted), (distance, 0), (slanted, -slanted)):
            first, second = _apart(plane.shape, dy, dx)
            pair = inside[first] & (plane[first] == plane[second])
            code = ((rank[first][pair] - start) * levels + grey[first][pair]) * levels + grey[second][pair]
            counts = xp.bincount(code, minlength=some * levels**2).reshape(some, levels, levels)
            found, there = _haralick(counts + counts.transpose(0, 2, 1))
            total += found
            used += there
        parts.append(host(xp.where(used > 0, total / xp.maximum(used, 1), xp.nan)))
    return np.concatenate(parts, axis=1)


def _apart(shape: tuple[int, ...], dy: int, dx: int) -> tuple[Any, Any]:
    """Return the slices of a plane whose pixels lie `dy` (at least 0) and `dx` apart; empty where it is too small."""
    height, width = max(0, shape[0] - dy), max(0, shape[1] - abs(dx))
    left = max(0, -dx)
    first = np.s_[:height, left : left + width]
    second = np.s_[dy : dy + height, left + dx : left + dx + width]
    return first, second


def _haralick(counts: Array) -> tuple[Array, Array]:
    """Return the features of pairs of grey levels ``(K, L, L)``, and 1 where there are any pairs, else 0."""
    xp = packages(counts).xp
    pairs = counts.sum(axis=(1, 2))
    share = counts / xp.maximum(pairs, 1)[:, None, None]
    level = xp.arange(counts.shape[1], dtype=np.float64)
    a, b = level[:, None], level[None, :]
    square = (a - b) ** 2
    mean = (share * a).sum(axis=(1, 2))[:, None, None]
    variance = (share * (a - mean) ** 2).sum(axis=(1, 2))
    together = (share * (a - mean) * (b - mean)).sum(axis=(1, 2))
    entropy = -(share * xp.log(xp.where(share > 0, share, 1.0))).sum(axis=(1, 2))
    even = variance > 1e-15
    there = pairs > 0
    features = xp.stack(
        [
            (share * square).sum(axis=(1, 2)),
            xp.where(even, together / xp.where(even, variance, 1.0), 1.0),
            (share / (1 + square)).sum(axis=(1, 2)),
            xp.sqrt((share**2).sum(axis=(1, 2))),
            entropy,
        ]
    )
    return features * there, there


def _neighbours(
    plane: Array,
    present: NDArray[np.int64],
    boxes: NDArray[np.int64],  # noqa: ARG001 - objects are not looked at one by one
    distance: float,
) -> NDArray[np.int64]:
    """Count neighbours as `openhcs_jupyter.functions._neighbours.count_neighbours` does."""
    xp = packages(plane).xp
    size = int(present[-1]) + 1 if len(present) else 1
    reach = int(distance)
    found = []
    for dy in range(reach + 1):
        for dx in range(-reach, reach + 1):
            if (dy == 0 and dx <= 0) or dy * dy + dx * dx > distance * distance:
                continue
            first, second = _apart(plane.shape, dy, dx)
            one, other = plane[first], plane[second]
            meet = (one != other) & (one > 0) & (other > 0)
            low, high = (choose(one[meet], other[meet]).astype(np.int64) for choose in (xp.minimum, xp.maximum))
            found.append(xp.unique(low * size + high))
    pairs = np.unique(host(xp.concatenate(found))) if found else np.zeros(0, np.int64)
    counts = np.bincount(np.concatenate([pairs // size, pairs % size]), minlength=size)
    return counts[present].astype(np.int64)
