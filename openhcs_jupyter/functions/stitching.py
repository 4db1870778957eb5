"""Stitching: where the fields of a well lie, and one mosaic made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, to_type
from openhcs_jupyter.functions.registration import find_shift, likely_shifts, shift_plane
from openhcs_jupyter.pipeline.contracts import Context, image, measure

if TYPE_CHECKING:
    import pandas as pd

_LEAST_OVERLAP = 8
"""Pixels that two fields must share along each axis to be compared."""
_CANDIDATES = 6
"""How many likely shifts of two fields are looked at."""
_FINE_PX = 3.0
_DOUBTED_PX = 0.3
"""A pair of fields that lies so far from where all others want it counts half."""
_RAGGED = 4
"""Up to this part of a field's side the border of a mosaic counts as ragged."""
_STAGE_WEIGHT = 1e-4
_LARGEST_MOSAIC = 4.0
"""Times the pixels of all fields: beyond it the stage positions are not those of one well."""


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
    import pandas as pd

    check_stack(stack, "field_positions")
    check_range("field_positions", "max_shift", max_shift, 0)
    check_range("field_positions", "min_correlation", min_correlation, 0, 1)
    stage = _by_grid(stack.shape, grid, overlap) if grid is not None else _by_stage(stack.shape, context)
    stage = stage - stage.min(axis=0)
    links = _links(stack, stage, max_shift, min_correlation) if refine else []
    places = _solved(stage, links)
    places -= places.min(axis=0)
    told = np.bincount([end for link in links for end in (link.first, link.second)], minlength=len(stack))
    return pd.DataFrame(
        {
            "field": _numbers(len(stack), context),
            "y": places[:, 0],
            "x": places[:, 1],
            "stage_y": stage[:, 0],
            "stage_x": stage[:, 1],
            "links": told.astype(np.int64),
        }
    )


@image(stack="field", depth="one", dtype="same", need=9.0)
def stitch(
    stack: Stack,
    positions: pd.DataFrame,
    blend: Literal["linear", "none"] = "linear",
    trim: bool = True,
    context: Context | None = None,
) -> Stack:
    """Lay the fields of a well side by side in one mosaic.

    Parameters
    ----------
    stack : ndarray of shape (F, Y, X)
        One plane a field, any integer or floating-point type.
    positions
        Where each lies, as `field_positions` says: columns ``y`` and ``x``, one row a field; by ``field`` where their
        numbers are known, else in the order of the stack.
    blend
        ``"linear"`` goes over from one field to the next across their overlap; ``"none"`` lets the later field cover
        the earlier ones, so that every pixel is that of one field.
    trim
        Leave out the ragged border that fields do not reach all alike; False keeps all, and the mosaic's first pixel is
        that of `positions`.
    context
        Numbers of the fields.

    Returns
    -------
    ndarray of shape (1, H, W), type of the stack
        As large as the fields reach. Fractions of pixels are interpolated linearly, integers are rounded; 0 where no
        field lies.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, a field has no position, or the positions lie so far apart that the mosaic would
        be mostly empty.

    Notes
    -----
    Each field weighs as much as its distance from its border, along y times along x. Computed in float32, float64 in
    float64.
    """
    check_stack(stack, "stitch")
    if blend not in ("linear", "none"):
        raise UsageError(f"stitch: blend is {blend!r}", 'It is "linear" or "none".')
    places = _places(positions, len(stack), context)
    height, width = stack.shape[1:]
    starts = np.floor(places).astype(np.int64)
    shape = tuple(starts.max(axis=0) + np.array([height, width]) + (places > starts).any(axis=0))
    if shape[0] * shape[1] > _LARGEST_MOSAIC * stack.size:
        raise UsageError(
            f"stitch: the mosaic would have {shape[0]} x {shape[1]} pixels, {len(stack)} fields of {height} x {width}",
            "The positions are too far apart; look at their table. Is the pixel size right?",
        )
    depth = np.float64 if stack.dtype == np.float64 else np.float32
    total = np.zeros(shape, dtype=depth)
    weights = np.zeros(shape, dtype=depth)
    for plane, place, start in zip(stack, places, starts, strict=True):
        _lay(plane, place - start, total[start[0] :, start[1] :], weights[start[0] :, start[1] :], blend)
    np.divide(total, weights, out=total, where=weights > 0)
    if trim:
        rows, columns = (_reached(weights > 0, axis, stack.shape[1 + axis]) for axis in (0, 1))
        total = np.ascontiguousarray(total[rows, columns])
    return to_type(total, stack.dtype)[None]


def _reached(covered: NDArray[np.bool_], axis: int, side: int) -> slice:
    """Return the rows, or columns, between the ragged ends of a mosaic of fields that have this side."""
    counts = covered.sum(axis=1 - axis)
    end = max(1, side // _RAGGED)
    first = int(np.argmax(counts[:end]))
    last = len(counts) - int(np.argmax(counts[::-1][:end]))
    return slice(first, last)


def _lay(plane: Stack, fraction: NDArray[np.float64], total: Stack, weights: Stack, blend: str) -> None:
    """Add a field to the mosaic from its first pixel on, a fraction of a pixel further."""
    height, width = (side + int(part > 0) for side, part in zip(plane.shape, fraction, strict=True))
    padded = np.pad(plane, ((0, height - plane.shape[0]), (0, width - plane.shape[1])), mode="edge")
    values = shift_plane(padded, *map(float, fraction))
    rows, columns = (_ramp(side, float(part), total.dtype) for side, part in zip(plane.shape, fraction, strict=True))
    total, weights = total[:height, :width], weights[:height, :width]
    if blend == "none":
        inside = np.outer(rows > 0, columns > 0)
        np.copyto(total, values, where=inside)
        weights[inside] = 1
        return
    weight = rows[:, None] * columns
    total += values * weight
    weights += weight


def _ramp(side: int, fraction: float, dtype: np.dtype[np.generic]) -> Stack:
    """Return the weight of each row by its distance from the border; of a field that starts at `fraction`."""
    places = np.arange(side + int(fraction > 0)) - fraction
    inside = (places >= 0) & (places <= side - 1)
    return np.where(inside, np.minimum(places + 1, side - places), 0).astype(dtype)


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


def _numbers(count: int, context: Context | None) -> list[int]:
    fields = context.fields if context else ()
    return list(fields) if len(fields) == count else list(range(1, count + 1))


def _links(stack: Stack, stage: NDArray[np.float64], max_shift: float, min_correlation: float) -> list[_Link]:
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
            link = _compared(stack, first, second, offset, max_shift)
            if link is not None and link.correlation >= max(min_correlation, 1e-9):
                found.append(link)
    return found


def _compared(stack: Stack, first: int, second: int, offset: NDArray[np.int64], max_shift: float) -> _Link | None:
    """Find how far two fields lie apart, from where the stage says on."""
    best, likeliest = offset, -np.inf
    for shift in likely_shifts(*_shared(stack, first, second, offset), max_shift, _CANDIDATES):
        # A cell here may look like another one there: all that both fields show must fit.
        moved = offset + np.array(shift)
        parts = _shared(stack, first, second, moved)
        if min(parts[0].shape) < _LEAST_OVERLAP:
            continue
        similar = _similarity(*parts)
        if similar > likeliest:
            best, likeliest = moved, similar
    if likeliest == -np.inf:
        return None
    fine = find_shift(*_shared(stack, first, second, best), min(max_shift, _FINE_PX))
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


def _places(positions: pd.DataFrame, count: int, context: Context | None) -> NDArray[np.float64]:
    missing = [name for name in ("y", "x") if name not in positions.columns]
    if missing:
        have = ", ".join(map(str, positions.columns))
        raise UsageError(
            f"stitch: the positions have no column {missing[0]!r} but {have}",
            'Make them with Step(field_positions, channel="DAPI", outputs=Table("positions")).',
        )
    chosen = positions
    if "field" in positions.columns:
        numbers = _numbers(count, context)
        by_field = positions.set_index("field")
        lacking = [number for number in numbers if number not in by_field.index]
        if lacking:
            raise UsageError(f"stitch: there is no position of field {', '.join(map(str, lacking))}")
        chosen = by_field.loc[numbers]
    if len(chosen) != count:
        raise UsageError(
            f"stitch: there are {len(chosen)} positions for {count} fields",
            "It takes one row a field: find positions in one channel, after projecting along z.",
        )
    places = chosen[["y", "x"]].to_numpy(dtype=np.float64)
    if not np.isfinite(places).all():
        raise UsageError("stitch: a position is NaN or infinite")
    rounded = np.round(places - places.min(axis=0), 6)
    return np.asarray(rounded, dtype=np.float64)
