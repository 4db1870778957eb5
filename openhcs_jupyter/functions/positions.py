"""Where the fields of a well lie beside each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack
from openhcs_jupyter.functions.registration import Shift, find_shift, likely_shifts
from openhcs_jupyter.pipeline.contracts import Context, measure

if TYPE_CHECKING:
    import pandas as pd

_LEAST_OVERLAP = 8
"""Pixels that two fields must share along each axis to be compared."""
_CANDIDATES = 6
"""How many likely shifts of two fields are looked at."""
_FINE_PX = 3.0
_DOUBTED_PX = 0.3
"""A pair of fields that lies so far from where all others want it counts half."""
_STAGE_WEIGHT = 1e-4


class _Link(NamedTuple):
    """What the overlap of two fields says of their distance."""

    first: int
    second: int
    y: float
    x: float
    correlation: float


@measure(stack="field", need=3.0)
def field_positions(
    stack: Stack,
    refine: bool = True,
    max_shift: float = 30.0,
    min_correlation: float = 0.4,
    grid: tuple[int, int] | None = None,
    overlap: float = 0.1,
    context: Context | None = None,
) -> pd.DataFrame:
    """Find where the fields of a well lie beside each other: from the stage, made exact by what their overlaps show.

    Use it on the channel that shows most, and hand its table to `stitch`: so all channels are laid out alike.

    Parameters
    ----------
    stack : ndarray of shape (F, Y, X)
        One plane a field, any integer or floating-point type.
    refine
        Compare overlaps; False keeps to the stage.
    max_shift
        How far in pixels two neighbours may lie from where the stage says, along y and along x.
    min_correlation
        Overlaps that fit each other less than this are not heeded: an empty overlap shows nothing but noise.
    grid
        Rows and columns of the fields, numbered by rows, where no stage positions are known. It goes before them.
    overlap
        Share of a field's side that neighbours of the `grid` have in common.
    context
        Stage positions, pixel size and numbers of the fields.

    Returns
    -------
    DataFrame
        One row a field: ``field``; ``y``, ``x``: its first pixel in the mosaic, in pixels, to a fraction, from 0;
        ``stage_y``, ``stage_x``: the same by the stage; ``links``: how many overlaps told its place. With 0 links it
        lies where the stage says.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, a parameter does not fit, or stage positions or pixel size are not known and no
        `grid` is given.

    Notes
    -----
    Of each two fields that overlap, phase correlation names the likeliest shifts, as in `register_channels`; the one in
    which all that both fields show fits best is made exact. The places are those of least squares over all pairs, in
    which pairs that contradict the others lose their weight (Cauchy's).
    """
    by = Comparing(likely_shifts, find_shift, _similarity)
    return positions_table(stack, refine, max_shift, min_correlation, grid, overlap, context, by)


class Comparing(NamedTuple):
    """What compares two planes of arrays of one kind."""

    likely_shifts: Callable[[Any, Any, float, int], list[tuple[int, int]]]
    find_shift: Callable[[Any, Any, float], Shift]
    similarity: Callable[[Any, Any], float]
    """Of what two fields share: their correlation, 0 where one is constant."""


def positions_table(
    stack: Stack,
    refine: bool,
    max_shift: float,
    min_correlation: float,
    grid: tuple[int, int] | None,
    overlap: float,
    context: Context | None,
    by: Comparing,
) -> pd.DataFrame:
    """Make the table of `field_positions`, whose parameters these are.

    Raises
    ------
    UsageError
        As of `field_positions`.
    """
    import pandas as pd

    check_stack(stack, "field_positions")
    check_range("field_positions", "max_shift", max_shift, 0)
    check_range("field_positions", "min_correlation", min_correlation, 0, 1)
    stage = _by_grid(stack.shape, grid, overlap) if grid is not None else _by_stage(stack.shape, context)
    stage = stage - stage.min(axis=0)
    links = _links(stack, stage, max_shift, min_correlation, by) if refine else []
    places = _solved(stage, links)
    places -= places.min(axis=0)
    told = np.bincount([end for link in links for end in (link.first, link.second)], minlength=len(stack))
    return pd.DataFrame(
        {
            "field": field_numbers(len(stack), context),
            "y": places[:, 0],
            "x": places[:, 1],
            "stage_y": stage[:, 0],
            "stage_x": stage[:, 1],
            "links": told.astype(np.int64),
        }
    )


def _by_stage(shape: tuple[int, ...], context: Context | None) -> NDArray[np.float64]:
    positions = context.positions_um if context else ()
    lacking = [index + 1 for index, position in enumerate(positions) if position is None]
    if len(positions) != shape[0] or lacking or context is None:
        which = f"field {', '.join(map(str, lacking))} has" if lacking else "the fields have"
        raise UsageError(
            f"field_positions: {which} no stage position",
            "Say how they lie: grid=(rows, columns) and overlap.",
        )
    if context.pixel_size_um is None:
        raise UsageError(
            "field_positions: the pixel size is not known, so micrometres cannot be told in pixels",
            "Say how the fields lie: grid=(rows, columns) and overlap.",
        )
    return np.array(positions, dtype=np.float64) / context.pixel_size_um


def _by_grid(shape: tuple[int, ...], grid: tuple[int, int], overlap: float) -> NDArray[np.float64]:
    check_range("field_positions", "overlap", overlap, 0, 0.9)
    rows, columns = grid
    if rows * columns < shape[0] or min(rows, columns) < 1:
        raise UsageError(f"field_positions: a grid of {rows} x {columns} is too small for {shape[0]} fields")
    step = [round(side * (1 - overlap)) for side in shape[1:]]
    return np.array([divmod(index, columns) for index in range(shape[0])], dtype=np.float64) * step


def field_numbers(count: int, context: Context | None) -> list[int]:
    """Return the numbers of fields, by their order where they are not known."""
    fields = context.fields if context else ()
    return list(fields) if len(fields) == count else list(range(1, count + 1))


def _links(
    stack: Stack, stage: NDArray[np.float64], max_shift: float, min_correlation: float, by: Comparing
) -> list[_Link]:
    """Compare each two fields that overlap."""
    size = np.array(stack.shape[1:])
    found = []
    for first in range(len(stack)):
        for second in range(first + 1, len(stack)):
            offset = np.rint(stage[second] - stage[first]).astype(np.int64)
            shared = size - np.abs(offset)
            # Fields that meet at a corner share too little to go by.
            if (shared < _LEAST_OVERLAP).any() or (shared < size / 2).all():
                continue
            link = _compared(stack, first, second, offset, max_shift, by)
            if link is not None and link.correlation >= max(min_correlation, 1e-9):
                found.append(link)
    return found


def _compared(
    stack: Stack, first: int, second: int, offset: NDArray[np.int64], max_shift: float, by: Comparing
) -> _Link | None:
    """Find how far two fields lie apart, from where the stage says on."""
    best, likeliest = offset, -np.inf
    for shift in by.likely_shifts(*_shared(stack, first, second, offset), max_shift, _CANDIDATES):
        # A cell here may look like another one there: all that both fields show must fit.
        moved = offset + np.array(shift)
        parts = _shared(stack, first, second, moved)
        if min(parts[0].shape) < _LEAST_OVERLAP:
            continue
        similar = by.similarity(*parts)
        if similar > likeliest:
            best, likeliest = moved, similar
    if likeliest == -np.inf:
        return None
    fine = by.find_shift(*_shared(stack, first, second, best), min(max_shift, _FINE_PX))
    return _Link(first, second, float(best[0] + fine.y), float(best[1] + fine.x), fine.correlation)


def _shared(stack: Stack, first: int, second: int, offset: NDArray[np.int64]) -> tuple[Stack, Stack]:
    """Return what two fields share if the second starts so many pixels behind the first."""
    shared = np.maximum(np.array(stack.shape[1:]) - np.abs(offset), 0)
    parts = []
    for index, start in ((first, np.maximum(offset, 0)), (second, np.maximum(-offset, 0))):
        parts.append(stack[index, start[0] : start[0] + shared[0], start[1] : start[1] + shared[1]])
    return parts[0], parts[1]


def _similarity(one: Stack, other: Stack) -> float:
    """Return the correlation of two planes; 0 where one is constant."""
    a, b = one.astype(np.float32).ravel(), other.astype(np.float32).ravel()
    a, b = a - a.mean(), b - b.mean()
    power = float(np.dot(a, a)) * float(np.dot(b, b))
    return float(np.dot(a, b)) / power**0.5 if power > 0 else 0.0


def _solved(stage: NDArray[np.float64], links: list[_Link]) -> NDArray[np.float64]:
    """Return the places that fit all links best; what no link tells is as the stage says."""
    if not links:
        return stage.copy()
    count = len(stage)
    ends = np.array([(link.first, link.second) for link in links])
    wanted = np.array([(link.y, link.x) for link in links])
    trust = np.array([link.correlation for link in links]) ** 2
    differences = np.zeros((len(links), count))
    differences[np.arange(len(links)), ends[:, 1]] = 1
    differences[np.arange(len(links)), ends[:, 0]] = -1
    places = stage.copy()
    weights = trust
    for _ in range(50):
        rows = np.concatenate([differences * np.sqrt(weights)[:, None], np.sqrt(_STAGE_WEIGHT) * np.eye(count)])
        values = np.concatenate([wanted * np.sqrt(weights)[:, None], np.sqrt(_STAGE_WEIGHT) * stage])
        places = np.linalg.lstsq(rows, values, rcond=None)[0]
        residual = np.hypot(*(differences @ places - wanted).T)
        weights = trust / (1 + (residual / _DOUBTED_PX) ** 2)
    return places
