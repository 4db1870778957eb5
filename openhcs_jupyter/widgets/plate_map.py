"""What the map of a plate view shows: the numbers of its wells, their colours, and which wells are open."""

from __future__ import annotations

import math
from collections.abc import Sequence

from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.sources import STATISTICS, Source


class PlateMap:
    """A plate, or two beside each other, coloured by a column of a table.

    Parameters
    ----------
    sources
        One, or two beside each other.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        first = sources[0]
        self.table = first.tables[0] if first.tables else ""
        self.column = first.columns(self.table)[0] if self.table else ""
        self.statistic = STATISTICS[0]
        self.color_map = pictures.COLOR_MAPS[0]
        self.scale: tuple[float, float] | None = None
        """What the map's colours begin and end with; None takes the least and the greatest value."""
        self.wells: list[str] = []
        """The wells that are open."""

    def values(self, source: Source) -> list[float]:
        """Return the number of each well, row by row."""
        if not source.tables or self.column not in source.columns(self._table_of(source)):
            return [math.nan] * (source.plate.rows * source.plate.columns)
        return source.values(self._table_of(source), self.column, self.statistic)

    def limits(self) -> tuple[float, float]:
        """Return what the map's colours begin and end with, the same for both sources."""
        if self.scale is not None:
            return self.scale
        values = [value for source in self.sources for value in self.values(source) if not math.isnan(value)]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        return low, high if high > low else low + 1.0

    def label(self) -> str:
        """Say what the map shows."""
        return f"{self.statistic} {self.column}" if self.column else "wells"

    def _table_of(self, source: Source) -> str:
        return self.table if self.table in source.tables else source.tables[0]
