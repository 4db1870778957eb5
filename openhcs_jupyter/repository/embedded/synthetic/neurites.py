"""The neurites of synthetic cells: where they run, how long they are, and their light in the channel GFP."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.model import parse_well, well_name
from openhcs_jupyter.repository.embedded.synthetic.plate import CYTOPLASM, SyntheticPlate
from openhcs_jupyter.repository.embedded.synthetic.truth import Cells, cells_of

if TYPE_CHECKING:
    import pandas as pd

_WIDTH = 1.5
"""Distance from a neurite's middle at which its light is half, in pixels."""
_BEND = 0.06
"""Standard deviation of the change of direction a pixel, in radians."""
_LIGHT = 0.8
"""Of a neurite, over the light of a cell without drug and the half of its top."""


class Neurites(NamedTuple):
    """The neurites of a well as points a pixel apart; y and x in pixels of its mosaic."""

    cell: NDArray[np.int64]
    """By neurite: the number of its cell, from 1."""
    start: NDArray[np.int64]
    """By neurite: its first point; one more at the end."""
    y: NDArray[np.float64]
    x: NDArray[np.float64]


def true_neurites(spec: SyntheticPlate, well: str) -> pd.DataFrame:
    """List the neurites of a well.

    Returns
    -------
    DataFrame
        One row a neurite: ``well``, ``cell``, ``length`` in pixels, of which ``inside`` lie in the well's mosaic and
        not on a cell.

    Raises
    ------
    UsageError
        If the plate has no such well.
    """
    import pandas as pd

    cells, found = cells_of(spec, well), neurites_of(spec, well)
    height, width = spec.mosaic
    inside = (found.y >= 0) & (found.y <= height - 1) & (found.x >= 0) & (found.x <= width - 1)
    inside &= ~_on_cells(cells, found)
    sizes = np.diff(found.start)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return pd.DataFrame(
        {
            "well": np.repeat(well_name(*parse_well(well)), len(sizes)),
            "cell": found.cell,
            "length": sizes - 1.0,
            "inside": np.bincount(owner, weights=inside, minlength=len(sizes)),
        }
    ).astype({"well": "str"})


@lru_cache(maxsize=8)
def neurites_of(spec: SyntheticPlate, well: str) -> Neurites:
    """Let the neurites of a well's cells grow: the more the cells respond, the longer."""
    row, column = parse_well(well)
    cells = cells_of(spec, well)
    rng = np.random.default_rng([spec.seed, 3, row, column])
    count = len(cells.y) * spec.neurites
    mean = spec.neurite_px * spec.response(spec.dose_um(column)) / spec.response_top
    lengths = np.maximum(1, np.rint(mean * rng.gamma(4.0, 0.25, count))).astype(np.int64)
    first = rng.uniform(0, 2 * np.pi, count)
    start = np.concatenate([[0], np.cumsum(lengths + 1)])
    turns = rng.normal(0, _BEND, start[-1])
    y, x = np.empty(start[-1]), np.empty(start[-1])
    cell = np.repeat(np.arange(len(cells.y)), spec.neurites)
    for index, at in enumerate(cell):
        part = slice(start[index], start[index + 1])
        angle = first[index] + np.cumsum(turns[part])
        radius = _radius(cells, int(at), first[index])
        y[part] = cells.y[at] + radius * np.sin(first[index]) + np.cumsum(np.sin(angle)) - np.sin(angle[0])
        x[part] = cells.x[at] + radius * np.cos(first[index]) + np.cumsum(np.cos(angle)) - np.cos(angle[0])
    return Neurites(cell + 1, start, y, x)


def draw_neurites(signal: NDArray[np.float32], spec: SyntheticPlate, well: str, field: int, z_um: float) -> None:
    """Draw the neurites of a field onto a plane of GFP."""
    from openhcs_jupyter.repository.embedded.synthetic import _kernels as kernels

    found = neurites_of(spec, well)
    light = _LIGHT * (spec.response_bottom + spec.response_top / 2)
    blur = spec.blur_px_per_um * abs(z_um)
    # What spreads gets fainter.
    width = _WIDTH + blur
    top, left = spec.origin(field)
    kernels.stamp(signal, found.y - top, found.x - left, np.float32(light * _WIDTH / width), width)


def _radius(cells: Cells, at: int, direction: float) -> float:
    """Return how far a cell reaches in a direction."""
    turn = cells.angle[at] - direction
    major, minor = CYTOPLASM * cells.major[at], CYTOPLASM * cells.minor[at]
    return float(major * minor / np.hypot(minor * np.cos(turn), major * np.sin(turn)))


def _on_cells(cells: Cells, found: Neurites) -> NDArray[np.bool_]:
    """Tell which points lie on any cell."""
    covered = np.zeros(len(found.y), dtype=bool)
    sine, cosine = np.sin(cells.angle), np.cos(cells.angle)
    for at in range(len(cells.y)):
        dy, dx = found.y - cells.y[at], found.x - cells.x[at]
        u = (dx * cosine[at] + dy * sine[at]) / (CYTOPLASM * cells.major[at])
        v = (dy * cosine[at] - dx * sine[at]) / (CYTOPLASM * cells.minor[at])
        covered |= u * u + v * v < 1
    return covered
