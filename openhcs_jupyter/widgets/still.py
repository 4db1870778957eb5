"""A plate map that needs no script: a small PNG for saved notebooks, and characters for text."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import lazy_loader

from openhcs_jupyter.model import well_name
from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.wells import DONE, FAILED, RUNNING, WAITING

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray
else:
    cv2 = lazy_loader.load("cv2")
    np = lazy_loader.load("numpy")

BLUE, ORANGE, GREY = (10, 123, 194), (213, 94, 0), (138, 138, 138)
_SCALE = 2
"""Pixels a CSS pixel, so that maps are sharp on fine screens."""
_SHIFT = 4


def run_map(rows: int, columns: int, packed: bytes) -> str:
    """Draw the wells of a run, see `WellStates.packed`, as an ``<img>``.

    A finished well is a disc, a failed one a square with a cross, an unfinished one a ring.
    """
    cell = _cell(columns)
    picture = _blank(rows, columns, cell)
    for at in range(rows * columns):
        state = packed[2 * at]
        center = _center(at, columns, cell)
        if state == FAILED:
            _square(picture, center, cell, ORANGE, cross=True)
        elif state == DONE:
            _disc(picture, center, cell, BLUE)
        elif state in (WAITING, RUNNING):
            _disc(picture, center, cell, GREY, ring=True)
    failed = sum(packed[2 * at] == FAILED for at in range(rows * columns))
    done = sum(packed[2 * at] == DONE for at in range(rows * columns))
    alt = f"Plate map, {rows} rows and {columns} columns: {done} wells done, {failed} failed"
    return _image(picture, alt)


def value_map(rows: int, columns: int, values: Sequence[float], low: float, high: float, color_map: str) -> str:
    """Draw a number for each well, row by row, as an ``<img>``; a well without one is a ring."""
    cell = _cell(columns)
    picture = _blank(rows, columns, cell)
    table = pictures.color_table(color_map)
    span = (high - low) or 1.0
    for at, value in enumerate(values):
        center = _center(at, columns, cell)
        if math.isnan(value):
            _disc(picture, center, cell, GREY, ring=True)
            continue
        shade = 3 * round(255 * min(max((value - low) / span, 0), 1))
        _square(picture, center, cell, tuple(table[shade : shade + 3]))
    return _image(picture, f"Plate map, {rows} rows and {columns} columns")


def value_text(rows: int, columns: int, values: Sequence[float], low: float, high: float) -> str:
    """Write a number for each well as characters: darker is more, a dot is a well without one."""
    shades = "\u2591\u2592\u2593\u2588"
    span = (high - low) or 1.0
    lines = ["   " + "".join(str((column + 1) % 10) for column in range(columns))]
    for row in range(rows):
        marks = []
        for value in values[row * columns : (row + 1) * columns]:
            share = 0 if math.isnan(value) else min(max((value - low) / span, 0), 1)
            marks.append("\u00b7" if math.isnan(value) else shades[min(int(4 * share), 3)])
        lines.append(f"{well_name(row, 0)[:-2]:<3}{''.join(marks)}")
    lines.append(f"   {shades[0]} low, {shades[-1]} high, \u00b7 no value")
    return "\n".join(lines)


def _cell(columns: int) -> int:
    """Return the width of a well in CSS pixels."""
    return 16 if columns <= 12 else 12 if columns <= 24 else 7


def _blank(rows: int, columns: int, cell: int) -> NDArray[np.uint8]:
    return np.zeros((rows * cell * _SCALE, columns * cell * _SCALE, 4), np.uint8)


def _center(at: int, columns: int, cell: int) -> tuple[float, float]:
    row, column = divmod(at, columns)
    return (column + 0.5) * cell * _SCALE, (row + 0.5) * cell * _SCALE


def _fixed(*values: float) -> tuple[int, ...]:
    return tuple(round(value * (1 << _SHIFT)) for value in values)


def _disc(
    picture: NDArray[np.uint8], center: tuple[float, float], cell: int, color: tuple[int, ...], *, ring: bool = False
) -> None:
    radius = _fixed(0.38 * cell * _SCALE)[0]
    thickness = _SCALE if ring else cv2.FILLED
    cv2.circle(picture, _fixed(*center), radius, (*color, 255), thickness, cv2.LINE_AA, _SHIFT)


def _square(
    picture: NDArray[np.uint8], center: tuple[float, float], cell: int, color: tuple[int, ...], *, cross: bool = False
) -> None:
    half = 0.42 * cell * _SCALE
    (x, y), arm = center, 0.22 * cell * _SCALE
    cv2.rectangle(
        picture, _fixed(x - half, y - half), _fixed(x + half, y + half), (*color, 255), cv2.FILLED, cv2.LINE_8, _SHIFT
    )
    if cross:
        white = (255, 255, 255, 255)
        for sign in (1, -1):
            ends = _fixed(x - arm, y - sign * arm), _fixed(x + arm, y + sign * arm)
            cv2.line(picture, *ends, white, _SCALE, cv2.LINE_AA, _SHIFT)


def _image(picture: NDArray[np.uint8], alt: str) -> str:
    height, width = picture.shape[:2]
    source = base64.b64encode(pictures.encoded(picture, "png")).decode()
    size = f'width="{width // _SCALE}" height="{height // _SCALE}"'
    return f'<img src="data:image/png;base64,{source}" alt="{alt}" {size} style="margin:4px 0">'
