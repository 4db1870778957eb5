"""Where fields lie in the window: one field, the mosaic of a well, or the wells of a plate; in micrometres."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Literal, NamedTuple

from openhcs_jupyter.model import parse_well
from openhcs_jupyter.streaming.layers import Layer, RunView, WellPlace

Mode = Literal["field", "well", "plate"]
_GAP = 0.04
"""Between wells, and between fields whose positions are not known, as a part of their size."""


class Tile(NamedTuple):
    """One plane's place in a layer."""

    well: int
    """Index in the run."""
    field: int
    y: int
    """Upper edge in pixels of the layer."""
    x: int


class Rect(NamedTuple):
    """A rectangle in micrometres."""

    y: float
    x: float
    height: float
    width: float


class Layout:
    """Places the fields of some runs, so that layers of all runs lie over each other.

    Parameters
    ----------
    mode
        ``field``: each field by itself. ``well``: the fields of a well by their stage positions. ``plate``: these
        mosaics by row and column, closer to each other than on the plate.
    views
        The runs.
    """

    def __init__(self, mode: Mode, views: Iterable[RunView]) -> None:
        self.mode: Mode = mode
        self._views = tuple(views)

    @cached_property
    def field_um(self) -> tuple[float, float]:
        """Height and width of the largest field."""
        known = [layer for view in self._views for layer in view.layers if layer.is_known]
        fields = [layer for layer in known if layer.scope == "field"]
        sizes = [
            (layer.corner_um[0] + layer.size_y * pixel_um(layer), layer.corner_um[1] + layer.size_x * pixel_um(layer))
            for layer in fields or known
        ]
        return max((y for y, _ in sizes), default=1.0), max((x for _, x in sizes), default=1.0)

    @cached_property
    def well_um(self) -> tuple[float, float]:
        """Height and width of the largest mosaic."""
        height, width = self.field_um
        for view in self._views:
            for well in view.wells:
                for y, x in self._offsets(well).values():
                    height, width = max(height, y + self.field_um[0]), max(width, x + self.field_um[1])
        return height, width

    @cached_property
    def extent_um(self) -> tuple[float, float]:
        """Height and width of what one slice shows."""
        if self.mode == "field":
            return self.field_um
        if self.mode == "well":
            return self.well_um
        rows, columns = self._rows_columns
        return (len(rows) - _GAP / (1 + _GAP)) * self._pitch[0], (len(columns) - _GAP / (1 + _GAP)) * self._pitch[1]

    def same_as(self, other: Layout) -> bool:
        """Tell whether another layout places everything as this one does."""
        mine, theirs = ((one.mode, one.extent_um, one.well_um, one.field_um) for one in (self, other))
        return mine == theirs

    def shape(self, layer: Layer) -> tuple[int, int]:
        """Return the layer's extent ``(Y, X)`` in its own pixels."""
        size = pixel_um(layer)
        y, x = self.extent_um
        if self.mode == "field":
            top, left = self._tile(layer, 0, 0)[2:]
            return top + max(layer.size_y, 1), left + max(layer.size_x, 1)
        # Offsets are rounded to whole pixels.
        return max(math.ceil(y / size - 0.51), layer.size_y), max(math.ceil(x / size - 0.51), layer.size_x)

    def tiles(self, view: RunView, layer: Layer, well: int | None, field: int | None) -> list[Tile]:
        """List the planes that one slice of a layer shows.

        Parameters
        ----------
        view, layer
            The run and its layer.
        well, field
            Indices in the run of the well and field at which the sliders stand; None where the run has it not. What
            the mode shows at once is not narrowed by them.
        """
        if layer.scope == "plate":
            return [self._tile(layer, 0, 0)]
        if self.mode != "plate" and well is None:
            return []
        if self.mode == "field":
            if layer.scope == "well":
                return [self._tile(layer, well or 0, 0)]
            return [] if field is None else [self._tile(layer, well or 0, field)]
        wells = range(len(view.wells)) if self.mode == "plate" else (well or 0,)
        tiles = []
        for index in wells:
            origin = self._origin(view.wells[index]) if self.mode == "plate" else (0.0, 0.0)
            if layer.scope == "well":
                tiles.append(self._tile(layer, index, 0, origin))
                continue
            offsets = self._offsets(view.wells[index])
            tiles += [
                self._tile(layer, index, number, origin, offsets[name])
                for number, name in enumerate(view.fields)
                if name in offsets
            ]
        return tiles

    def well_rect(self, name: str) -> Rect | None:
        """Return where a well lies in the plate; None in the other modes, and for a well that no run has."""
        row, column = parse_well(name)
        rows, columns = self._rows_columns
        if self.mode != "plate" or row not in rows or column not in columns:
            return None
        return Rect(rows[row] * self._pitch[0], columns[column] * self._pitch[1], *self.well_um)

    def well_at(self, y: float, x: float) -> str | None:
        """Name the well at a place of the plate, in micrometres."""
        for view in self._views:
            for well in view.wells:
                rect = self.well_rect(well.name)
                if rect and 0 <= y - rect.y < rect.height and 0 <= x - rect.x < rect.width:
                    return well.name
        return None

    @cached_property
    def _pitch(self) -> tuple[float, float]:
        return self.well_um[0] * (1 + _GAP), self.well_um[1] * (1 + _GAP)

    @cached_property
    def _rows_columns(self) -> tuple[dict[int, int], dict[int, int]]:
        """The rows and columns between the first and the last that are shown, by their number on the plate."""
        places = [(well.row, well.column) for view in self._views for well in view.wells] or [(0, 0)]
        rows, columns = zip(*places, strict=True)
        return (
            {row: index for index, row in enumerate(range(min(rows), max(rows) + 1))},
            {column: index for index, column in enumerate(range(min(columns), max(columns) + 1))},
        )

    def _origin(self, well: WellPlace) -> tuple[float, float]:
        rows, columns = self._rows_columns
        return rows[well.row] * self._pitch[0], columns[well.column] * self._pitch[1]

    def _offsets(self, well: WellPlace) -> dict[int, tuple[float, float]]:
        """Return the upper left corner of each field in the well's mosaic, by the field's number."""
        placed = {field.number: field.position_um for field in well.fields if field.position_um is not None}
        if len(placed) == len(well.fields) and len(set(placed.values())) == len(placed) and placed:
            top, left = min(y for y, _ in placed.values()), min(x for _, x in placed.values())
            return {number: (y - top, x - left) for number, (y, x) in placed.items()}
        across = math.ceil(math.sqrt(len(well.fields)))
        height, width = (size * (1 + _GAP) for size in self.field_um)
        return {
            field.number: (index // across * height, index % across * width) for index, field in enumerate(well.fields)
        }

    def _tile(
        self,
        layer: Layer,
        well: int,
        field: int,
        origin: tuple[float, float] = (0.0, 0.0),
        offset: tuple[float, float] = (0.0, 0.0),
    ) -> Tile:
        size = pixel_um(layer)
        y, x = (sum(lengths) / size for lengths in zip(origin, offset, layer.corner_um, strict=True))
        return Tile(well, field, round(y), round(x))


def pixel_um(layer: Layer) -> float:
    """Return the width of a layer's pixel; 1 where it is not known."""
    return layer.pixel_size_um or 1.0
