"""What a comparison is made of, and how far two results are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


class Case(NamedTuple):
    """A function and what does the same."""

    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    difference: Callable[[Any, Any], float]
    """Of the two results."""
    tolerance: float
    by: str
    """What the counterpart is made of."""


def largest(ours: Any, theirs: Any) -> float:
    """Return the largest difference of two arrays."""
    return float(np.max(np.abs(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64))))


def share(ours: Any, theirs: Any) -> float:
    """Return the share of pixels that differ."""
    return float(np.mean(np.asarray(ours) != np.asarray(theirs)))


def relative(ours: Any, theirs: Any) -> float:
    """Return the largest difference of two arrays, over the largest value."""
    return largest(ours, theirs) / max(float(np.abs(theirs).max()), 1e-12)


def rounded(values: NDArray[Any], dtype: Any = np.uint16) -> NDArray[Any]:
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)


def tables_differ(ours: pd.DataFrame, theirs: pd.DataFrame) -> float:
    """Return the greatest relative difference of the columns that both tables have."""
    if len(ours) != len(theirs):
        return float("inf")
    pairs = {"area": "area", "y": "centroid-0", "x": "centroid-1", "perimeter": "perimeter"}
    pairs |= {"major_axis": "axis_major_length", "minor_axis": "axis_minor_length", "eccentricity": "eccentricity"}
    for index, channel in enumerate(("DAPI", "GFP")):
        pairs |= {f"{what}_{channel}": f"intensity_{what}-{index}" for what in ("mean", "std", "min", "max")}
    # A pixel at the threshold may fall to either side: the bulk of the objects tells.
    worst = 0.0
    for one, other in pairs.items():
        if other not in theirs:
            continue
        a, b = ours[one].to_numpy(dtype=float), theirs[other].to_numpy(dtype=float)
        away = np.abs(a - b) / np.maximum(np.abs(b), 1e-9)
        away[np.abs(a - b) < 1e-4] = 0
        worst = max(worst, float(np.quantile(away, 0.95)))
    return worst
