"""What a synthetic plate is made of, and what follows from it without pixels."""

from __future__ import annotations

import math

import msgspec

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.model import well_name

CHANNELS = ("DAPI", "GFP")
CYTOPLASM = 1.5
"""Axes of a cell over those of its nucleus."""
GAP = 4.0
"""Least distance of two cells that do not touch, in pixels."""
STRETCH = 1.3
"""Long axis of the most oblong nucleus over that of a disk of its area."""
LARGEST_NUCLEUS = 1.1 * STRETCH
"""Long half axis of the largest nucleus over the plate's mean half axis."""
_LARGEST = (16, 24)
_DENSEST = 0.4
"""Part of a well that cells with the gaps around them may cover: scattering disks at random jams at 0.55."""


class SyntheticPlate(msgspec.Struct, frozen=True, kw_only=True):
    """What a synthetic plate is made of; all of it follows from these values.

    Wells lie in `rows` x `columns` from A01 on. Doses rise with the columns, rows are replicates. A well is one mosaic
    of cells from which its fields are cut, numbered from 1 by rows. Each cell is an ellipse, its nucleus, stained in
    the channel DAPI, within an ellipse 1.5 times as wide that responds to the dose in the channel GFP.

    Raises
    ------
    UsageError
        If a value does not fit, or the cells do not fit into the fields.
    """

    name: str = "Synthetic"
    rows: int = 2
    columns: int = 6
    grid: tuple[int, int] = (2, 2)
    """Fields of a well, in rows and columns."""
    overlap: float = 0.1
    """Part of a field's side that it shares with its neighbour."""
    size: int = 1080
    """Height and width of a field in pixels."""
    slices: int = 3
    cells_per_field: int = 200
    """In the mean over a well's mosaic."""
    touching: float = 0.1
    """Part of the cells whose nuclei touch another's."""
    nucleus_px: float = 9.0
    """Mean half axis of a nucleus in pixels."""
    pixel_size_um: float = 0.65
    z_step_um: float = 4.0
    blur_px_per_um: float = 0.4
    """How much wider an outline gets with the distance from focus."""
    dapi: float = 1500.0
    """Mean intensity of nuclei, in camera counts above the background."""
    variation: float = 0.15
    """Standard deviation of the logarithm of cells' intensities."""
    lowest_dose_um: float = 0.01
    highest_dose_um: float = 10.0
    ec50_um: float = 0.3
    hill: float = 1.2
    response_bottom: float = 200.0
    """Mean intensity of GFP without the drug."""
    response_top: float = 2500.0
    """Mean intensity of GFP at a boundless dose."""
    neurites: int = 0
    """Neurites of each cell, in the channel GFP."""
    neurite_px: float = 120.0
    """Mean length of a neurite in pixels at a boundless dose; it shortens as the response does."""
    stage_error_px: float = 0.0
    """Standard deviation of the stage positions that are written, from where the fields are, along y and along x."""
    background: float = 60.0
    """Light between the cells, in camera counts."""
    shading: float = 0.25
    """How much darker a field's darkest corner is than its brightest point."""
    offset: float = 100.0
    """Camera counts without light."""
    gain: float = 0.5
    """Variance of the shot noise over the light, in counts."""
    read_noise: float = 3.0
    """Standard deviation in counts."""
    seed: int = 1

    def __post_init__(self) -> None:
        for name, low, high in _LIMITS:
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not low <= value <= high:
                    raise UsageError(f"synthetic plate: {name} is {value}; it must lie between {low:g} and {high:g}")
        if not self.name or not all(c.isalnum() or c in "-. " for c in self.name):
            raise UsageError(f"synthetic plate: the name {self.name!r} must be of letters, digits, spaces, - and .")
        if self.highest_dose_um < self.lowest_dose_um:
            raise UsageError("synthetic plate: highest_dose_um is below lowest_dose_um")
        self._check_density()

    def _check_density(self) -> None:
        """Refuse cells that lie too close to be scattered without touching."""
        # The largest cell that can occur, and the largest pair.
        nucleus = self.nucleus_px * LARGEST_NUCLEUS
        single, pair = nucleus * CYTOPLASM + GAP / 2, nucleus * (1 + CYTOPLASM) + GAP / 2
        clusters, cells = self.counts
        pairs = cells - clusters
        height, width = self.mosaic
        covered = math.pi * ((clusters - pairs) * single**2 + pairs * pair**2) / (height * width)
        if covered > _DENSEST:
            fit = int(self.cells_per_field * _DENSEST / covered)
            raise UsageError(
                f"synthetic plate: {self.cells_per_field} cells do not fit into a field of {self.size} pixels",
                f"Take at most {fit} cells, smaller nuclei (nucleus_px) or larger fields.",
            )
        if cells and min(height, width) < 4 * pair:
            raise UsageError(
                f"synthetic plate: fields of {self.size} pixels are too small for nuclei of {self.nucleus_px:g} pixels",
                "Take smaller nuclei (nucleus_px) or larger fields.",
            )

    @property
    def counts(self) -> tuple[int, int]:
        """How many single cells and pairs a well has together, and how many cells."""
        height, width = self.mosaic
        cells = round(self.cells_per_field * height * width / self.size**2)
        return cells - round(cells * self.touching / 2), cells

    @property
    def overlap_px(self) -> int:
        """Rows or columns of pixels that neighbouring fields share."""
        return round(self.overlap * self.size)

    @property
    def fields(self) -> int:
        """Fields of a well."""
        return self.grid[0] * self.grid[1]

    @property
    def mosaic(self) -> tuple[int, int]:
        """Height and width of a well's mosaic in pixels."""
        step = self.size - self.overlap_px
        return (self.grid[0] - 1) * step + self.size, (self.grid[1] - 1) * step + self.size

    @property
    def wells(self) -> tuple[str, ...]:
        """Names of the wells by row and column."""
        return tuple(well_name(row, column) for row in range(self.rows) for column in range(self.columns))

    @property
    def planes(self) -> int:
        """Planes of the whole plate."""
        return self.rows * self.columns * self.fields * len(CHANNELS) * self.slices

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all its pixels."""
        return self.planes * self.size**2 * 2

    def dose_um(self, column: int) -> float:
        """Return the dose of a column, counted from 0: evenly spaced in its logarithm."""
        part = column / (self.columns - 1) if self.columns > 1 else 1.0
        dose: float = self.lowest_dose_um * (self.highest_dose_um / self.lowest_dose_um) ** part
        return dose

    def response(self, dose_um: float) -> float:
        """Return the mean intensity of GFP that a dose is expected to give: a logistic of four parameters."""
        span = self.response_top - self.response_bottom
        response: float = self.response_bottom + span / (1 + (self.ec50_um / dose_um) ** self.hill)
        return response

    def origin(self, field: int) -> tuple[int, int]:
        """Return where a field, counted from 1, starts in its well's mosaic: ``(y, x)`` in pixels."""
        row, column = divmod(field - 1, self.grid[1])
        step = self.size - self.overlap_px
        return row * step, column * step


_LIMITS: tuple[tuple[str, float, float], ...] = (
    ("rows", 1, _LARGEST[0]),
    ("columns", 1, _LARGEST[1]),
    ("grid", 1, 100),
    ("overlap", 0, 0.5),
    ("size", 64, 16384),
    ("slices", 1, 1000),
    ("cells_per_field", 0, 1_000_000),
    ("touching", 0, 1),
    ("nucleus_px", 3, 100),
    ("pixel_size_um", 0.001, 100),
    ("z_step_um", 0.001, 1000),
    ("blur_px_per_um", 0, 100),
    ("dapi", 0, 60000),
    ("variation", 0, 2),
    ("lowest_dose_um", 1e-9, 1e9),
    ("highest_dose_um", 1e-9, 1e9),
    ("ec50_um", 1e-9, 1e9),
    ("hill", 0.01, 100),
    ("response_bottom", 0, 60000),
    ("response_top", 0, 60000),
    ("neurites", 0, 20),
    ("neurite_px", 1, 2000),
    ("stage_error_px", 0, 1000),
    ("background", 0, 60000),
    ("shading", 0, 0.9),
    ("offset", 0, 60000),
    ("gain", 0, 1000),
    ("read_noise", 0, 10000),
    ("seed", 0, 2**63 - 1),
)


DEMO = SyntheticPlate(name="Demo", size=540, cells_per_field=60)
"""12 wells x 4 fields x 2 channels x 3 slices of 540 x 540 pixels: 168 MB."""
