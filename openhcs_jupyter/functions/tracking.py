"""Objects followed through time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import check_range
from openhcs_jupyter.functions._groups import group_rows
from openhcs_jupyter.pipeline.contracts import Context, table

if TYPE_CHECKING:
    import pandas as pd

_BOX = ("y_min", "x_min", "y_max", "x_max")
_PLACE = ("plate", "well", "field", "channel")


@table(over="field")
def track_objects(
    objects: pd.DataFrame,
    max_distance: float = 20.0,
    by: Literal["distance", "overlap"] = "distance",
    memory: int = 0,
) -> pd.DataFrame:
    """Say which objects of a film are one and the same.

    Parameters
    ----------
    objects
        One row an object and time point, with the columns ``t``, ``y`` and ``x``, as `measure_objects` makes it.
    max_distance
        How far in pixels an object moves from one time point to the next at most.
    by
        ``"distance"`` joins objects so that all together move least; ``"overlap"`` so that their boxes overlap most,
        for objects that are larger than their steps. Boxes that do not overlap are then not joined.
    memory
        For so many time points an object may be gone and still be the same when it comes back.

    Returns
    -------
    DataFrame
        The rows and columns of `objects` in their order, and ``track``: the number of the object, from 1 in each field,
        in the order in which objects appear; ``moved``: how far in pixels since it was last seen, NaN where it begins.

    Raises
    ------
    UsageError
        If a column is missing or a parameter does not fit.

    Notes
    -----
    From each time point to the next the best assignment of all objects at once, by
    `scipy.optimize.linear_sum_assignment`. An object that divides goes on as the nearer of the two; the other begins.
    """
    check_range("track_objects", "max_distance", max_distance, 0)
    check_range("track_objects", "memory", memory, 0, 1000)
    if by not in ("distance", "overlap"):
        raise UsageError(f"track_objects: by is {by!r}", 'It is "distance" or "overlap".')
    wanted = ("t", "y", "x", *(_BOX if by == "overlap" else ()))
    _check_columns(objects, wanted, "track_objects")
    track = np.zeros(len(objects), dtype=np.int64)
    moved = np.full(len(objects), np.nan)
    values = objects[list(wanted)].to_numpy(dtype=np.float64)
    groups = group_rows(objects, [name for name in _PLACE if name in objects.columns])
    order = np.argsort(groups.of, kind="stable")
    for rows in np.split(order, np.cumsum(groups.sizes)[:-1]) if len(objects) else []:
        track[rows], moved[rows] = _tracked(values[rows], max_distance, by, int(memory))
    return objects.assign(track=track, moved=moved)


@table(over="field")
def measure_tracks(tracks: pd.DataFrame, context: Context | None = None) -> pd.DataFrame:
    """Measure how far and how straight each object of a film goes.

    Parameters
    ----------
    tracks
        One row an object and time point, as `track_objects` makes it.
    context
        The pixel size.

    Returns
    -------
    DataFrame
        One row a track: ``plate``, ``well``, ``field`` as they came; ``track``; ``first``, ``last``: its first and last
        time point; ``points``: how many it was seen at; ``path``: the length of its way in pixels; ``distance`` from
        its begin to its end; ``straightness``: distance over path, 1 at best, NaN where it does not move; ``speed`` in
        pixels a time point. Where the pixel size is known also ``path_um``, ``distance_um`` and ``speed_um``.

    Raises
    ------
    UsageError
        If a column is missing.
    """
    import pandas as pd

    _check_columns(tracks, ("t", "y", "x", "track", "moved"), "measure_tracks")
    keys = [name for name in _PLACE if name in tracks.columns] + ["track"]
    groups = group_rows(tracks, keys)
    time, y, x, moved = tracks[["t", "y", "x", "moved"]].to_numpy(dtype=np.float64).T
    order = np.lexsort((time, groups.of))
    ends = np.cumsum(groups.sizes)
    last, first = order[ends - 1], order[ends - groups.sizes]
    path = groups.sums(np.nan_to_num(moved))
    distance = np.hypot(y[last] - y[first], x[last] - x[first])
    spent = time[last] - time[first]
    columns: dict[str, NDArray[Any]] = {
        "first": tracks["t"].to_numpy()[first],
        "last": tracks["t"].to_numpy()[last],
        "points": groups.sizes,
        "path": path,
        "distance": distance,
        "straightness": distance / np.where(path > 0, path, np.nan),
        "speed": path / np.where(spent > 0, spent, np.nan),
    }
    if context is not None and context.pixel_size_um is not None:
        columns |= {f"{name}_um": columns[name] * context.pixel_size_um for name in ("path", "distance", "speed")}
    return pd.DataFrame({name: tracks[name].array[groups.first] for name in keys} | columns)


def _tracked(
    values: NDArray[np.float64], max_distance: float, by: str, memory: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the tracks of one field; `values` has the columns t, y, x and, for overlap, the box."""
    track = np.zeros(len(values), dtype=np.int64)
    moved = np.full(len(values), np.nan)
    seen = np.zeros(0, dtype=np.int64)
    """Of each track that may go on: the row at which it was last seen."""
    count = 0
    order = np.argsort(values[:, 0], kind="stable")
    times, starts = np.unique(values[order, 0], return_index=True)
    for time, rows in zip(times, np.split(order, starts[1:]), strict=True):
        seen = seen[values[seen, 0] >= time - 1 - memory]
        before, after = _assigned(values[seen], values[rows], max_distance, by)
        track[rows[after]] = track[seen[before]]
        moved[rows[after]] = np.hypot(*(values[rows[after], 1:3] - values[seen[before], 1:3]).T)
        new = rows[track[rows] == 0]
        track[new] = count + 1 + np.arange(len(new))
        count += len(new)
        lost = np.ones(len(seen), dtype=bool)
        lost[before] = False
        seen = np.concatenate([seen[lost], rows])
    return track, moved


def _assigned(
    old: NDArray[np.float64], new: NDArray[np.float64], max_distance: float, by: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not len(old) or not len(new):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    distance = cdist(old[:, 1:3], new[:, 1:3])
    allowed = distance <= max_distance
    cost = distance
    if by == "overlap":
        overlap = _overlap(old[:, 3:], new[:, 3:])
        allowed &= overlap > 0
        cost = 1 - overlap
    choices, rivals = allowed.sum(axis=1), allowed.sum(axis=0)
    # Most objects have one place to go, for which nobody else competes; only for the others there is a choice.
    only = np.argmax(allowed, axis=1)
    settled = (choices == 1) & (rivals[only] == 1)
    before, after = np.flatnonzero(settled), only[settled]
    rows = np.flatnonzero(~settled & (choices > 0))
    if not len(rows):
        return before, after
    columns = np.flatnonzero(allowed[rows].any(axis=0))
    part, open_ = cost[np.ix_(rows, columns)], allowed[np.ix_(rows, columns)]
    # One that is not allowed costs more than all others together.
    dear = (part[open_].max() + 1) * (min(part.shape) + 1)
    one, other = linear_sum_assignment(np.where(open_, part, dear))
    keep = open_[one, other]
    return np.concatenate([before, rows[one[keep]]]), np.concatenate([after, columns[other[keep]]])


def _overlap(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what two boxes share, over what they cover together."""
    starts = np.maximum(old[:, None, :2], new[None, :, :2])
    ends = np.minimum(old[:, None, 2:], new[None, :, 2:])
    shared = np.clip(ends - starts, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (old, new)]
    return np.asarray(shared / (areas[0][:, None] + areas[1] - shared))


def _check_columns(given: pd.DataFrame, wanted: tuple[str, ...], function: str) -> None:
    missing = [name for name in wanted if name not in given.columns]
    if missing:
        hint = "A plate with one time point has none." if missing[0] == "t" else "measure_objects makes such a table."
        raise UsageError(f"{function}: the table has no column {missing[0]!r}", hint)
