"""Loops over pixels that draw synthetic planes, compiled by numba; imported only when a plate is made.

Nothing but additions, products, quotients and square roots, in a fixed order: the pixels are the same everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

_RADII = types.Array(types.float64, 1, "C", readonly=True)
_CENTRES = types.Array(types.float64, 2, "C")
_PLANE = types.Array(types.float32, 2, "C")
_PIXELS = types.Array(types.uint16, 2, "C")
_POINTS = types.Array(types.float64, 1, "C")
_CELLS = types.Array(types.float64, 2, "C", readonly=True)
_SHADE = types.Array(types.float32, 2, "C", readonly=True)
_POOL = types.Array(types.float32, 1, "C", readonly=True)
_STARTS = types.Array(types.int64, 1, "C", readonly=True)


@njit(types.float64(types.uint64), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def _uniform(state: Any) -> Any:
    """Turn a number of a sequence into one between 0 and 1, by the mixing function of SplitMix64."""
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return float(mixed >> np.uint64(11)) / 9007199254740992.0


@njit(  # type: ignore[untyped-decorator]  # the decorator is not typed
    types.void(_RADII, types.float64, types.float64, types.uint64, _CENTRES), cache=True, nogil=True
)
def scatter(radii: Any, height: Any, width: Any, seed: Any, centres: Any) -> None:
    """Scatter disks at random, one after the other, so that none overlap and all lie inside."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    count = radii.shape[0]
    side = 1.0
    for i in range(count):
        side = max(side, 2.0 * radii[i])
    rows, columns = int(height / side) + 1, int(width / side) + 1
    # Disks by the square that their centre lies in; overlapping ones are no further than the next square.
    head = np.full((rows, columns), -1, dtype=np.int64)
    following = np.full(count, -1, dtype=np.int64)
    state = seed
    for i in range(count):
        radius = radii[i]
        free = False
        while not free:
            state += golden
            y = radius + _uniform(state) * (height - 1.0 - 2.0 * radius)
            state += golden
            x = radius + _uniform(state) * (width - 1.0 - 2.0 * radius)
            row, column = int(y / side), int(x / side)
            free = True
            for near_row in range(max(0, row - 1), min(rows, row + 2)):
                for near_column in range(max(0, column - 1), min(columns, column + 2)):
                    j = head[near_row, near_column]
                    while j >= 0 and free:
                        distance = (centres[j, 0] - y) ** 2 + (centres[j, 1] - x) ** 2
                        free = distance >= (radius + radii[j]) ** 2
                        j = following[j]
        centres[i, 0], centres[i, 1] = y, x
        following[i] = head[row, column]
        head[row, column] = i


@njit(types.void(_PLANE, _CELLS, types.int64, types.int64), cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def draw(plane: Any, cells: Any, first_y: int, first_x: int) -> None:
    """Draw ellipses with soft outlines onto a plane that starts at (`first_y`, `first_x`) of a mosaic.

    `cells` has the columns centre y and x in the mosaic, half axes, sine and cosine of the long axis's angle to the
    x axis, intensity, and half the width of the outline, in pixels. On the true outline the intensity is half. Where
    ellipses overlap the brighter one stays.
    """
    height, width = plane.shape
    for i in range(cells.shape[0]):
        cy, cx, a, b, sine, cosine, value, blur = cells[i]
        mean = np.sqrt(a * b)
        along_x, along_y = cosine / a, sine / a
        across_x, across_y = sine / b, cosine / b
        outer = (1.0 + blur / mean) ** 2
        inner = max(0.0, 1.0 - blur / mean) ** 2
        reach_u = a * (1.0 + blur / mean)
        reach_v = b * (1.0 + blur / mean)
        reach_y = np.sqrt((reach_u * sine) ** 2 + (reach_v * cosine) ** 2)
        reach_x = np.sqrt((reach_u * cosine) ** 2 + (reach_v * sine) ** 2)
        top, bottom = max(first_y, int(np.ceil(cy - reach_y))), min(first_y + height - 1, int(np.floor(cy + reach_y)))
        left, right = max(first_x, int(np.ceil(cx - reach_x))), min(first_x + width - 1, int(np.floor(cx + reach_x)))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                u = (x - cx) * along_x + (y - cy) * along_y
                v = (y - cy) * across_y - (x - cx) * across_x
                square = u * u + v * v
                if square >= outer:
                    continue
                light = np.float32(value)
                if square > inner:
                    part = ((1.0 - np.sqrt(square)) * mean + blur) / (2.0 * blur)
                    light = np.float32(value * part * part * (3.0 - 2.0 * part))
                at_y, at_x = y - first_y, x - first_x
                plane[at_y, at_x] = max(plane[at_y, at_x], light)


@njit(  # type: ignore[untyped-decorator]  # the decorator is not typed
    types.void(_PLANE, _POINTS, _POINTS, types.float32, types.float64), cache=True, nogil=True
)
def stamp(plane: Any, at_y: Any, at_x: Any, light: Any, width: Any) -> None:
    """Draw points as soft disks that are half as bright `width` pixels from their middle; the brighter one stays."""
    height, breadth = plane.shape
    reach = 2.0 * width
    for i in range(at_y.shape[0]):
        cy, cx = at_y[i], at_x[i]
        for y in range(max(0, int(np.ceil(cy - reach))), min(height - 1, int(np.floor(cy + reach))) + 1):
            for x in range(max(0, int(np.ceil(cx - reach))), min(breadth - 1, int(np.floor(cx + reach))) + 1):
                distance = np.sqrt((y - cy) ** 2 + (x - cx) ** 2)
                if distance < reach:
                    part = 1.0 - distance / reach
                    plane[y, x] = max(plane[y, x], np.float32(light * part * part * (3.0 - 2.0 * part)))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # the decorator is not typed
def outline(labels: Any, cells: Any, first_y: int, first_x: int) -> None:
    """Mark the pixels whose centres lie in an ellipse by its number; where two overlap, by the one deeper there.

    `cells` has the columns of `draw` up to the cosine, then the number.
    """
    height, width = labels.shape
    nearest = np.full((height, width), 2.0, dtype=np.float32)
    for i in range(cells.shape[0]):
        cy, cx, a, b, sine, cosine, number = cells[i]
        reach_y = np.sqrt((a * sine) ** 2 + (b * cosine) ** 2)
        reach_x = np.sqrt((a * cosine) ** 2 + (b * sine) ** 2)
        top, bottom = max(first_y, int(np.ceil(cy - reach_y))), min(first_y + height - 1, int(np.floor(cy + reach_y)))
        left, right = max(first_x, int(np.ceil(cx - reach_x))), min(first_x + width - 1, int(np.floor(cx + reach_x)))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                u = ((x - cx) * cosine + (y - cy) * sine) / a
                v = ((y - cy) * cosine - (x - cx) * sine) / b
                distance = np.float32(u * u + v * v)
                at_y, at_x = y - first_y, x - first_x
                if distance <= 1.0 and distance < nearest[at_y, at_x]:
                    nearest[at_y, at_x] = distance
                    labels[at_y, at_x] = np.int32(number)


@njit(  # type: ignore[untyped-decorator]  # the decorator is not typed
    types.void(_PLANE, _SHADE, _POOL, _STARTS, types.float32, types.float32, types.float32, types.float32, _PIXELS),
    cache=True,
    nogil=True,
)
def expose(
    signal: Any, shade: Any, pool: Any, starts: Any, background: Any, gain: Any, read: Any, offset: Any, pixels: Any
) -> None:
    """Turn light into camera counts: shading, shot noise, read noise, offset.

    Each row takes its noise from the pool of standard normal numbers, from its own start on.
    """
    height, width = signal.shape
    read_variance = read * read
    for y in range(height):
        noise = pool[starts[y] : starts[y] + width]
        light = signal[y]
        shading = shade[y]
        row = pixels[y]
        for x in range(width):
            counts = (light[x] + background) * shading[x]
            counts += np.sqrt(counts * gain + read_variance) * noise[x] + offset + np.float32(0.5)
            row[x] = np.uint16(min(max(counts, np.float32(0)), np.float32(65535)))
