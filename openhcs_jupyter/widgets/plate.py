"""The plate view: a map coloured by a column of a table, and the fields of the wells that are opened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.widgets import pictures, still
from openhcs_jupyter.widgets.session import is_watched, session, widget_view
from openhcs_jupyter.widgets.sources import STATISTICS, Source, Viewable, source_of

if TYPE_CHECKING:
    from openhcs_jupyter.widgets.plate_controls import PlateControls


def plate_view(what: Viewable, beside: Viewable | None = None) -> PlateView:
    """Show a plate: a map coloured by any column of any table, and the fields of wells that are clicked.

    A click on a well shows its fields; Shift and click shows a second well beside the first. Dragging over wells, Ctrl
    and click, or the space bar selects wells; the next cell takes them with ``--wells selected``.

    Parameters
    ----------
    what
        A run, a plate, or the id or name of a plate of the connected repository.
    beside
        Another run or plate, shown beside the first.

    Raises
    ------
    OpenHCSError
        If there is no such plate, or its tables cannot be read.

    Examples
    --------
    >>> plate_view(nuclei)  # doctest: +SKIP
    >>> plate_view(nuclei, stricter)  # doctest: +SKIP
    """
    return PlateView([source_of(one) for one in (what, beside) if one is not None])


class PlateView:
    """What `plate_view` returns: shows itself where a cell ends in it.

    Parameters
    ----------
    sources
        One, or two beside each other.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        first = sources[0]
        self.table = first.tables[0] if first.tables else ""
        self.column = first.columns(self.table)[0] if self.table else ""
        self.statistic = STATISTICS[0]
        self.color_map = pictures.COLOR_MAPS[0]
        self.scale: tuple[float, float] | None = None
        """What the map's colours begin and end with; None takes the least and the greatest value."""
        self.wells: list[str] = []
        """The wells that are open."""
        self._controls: PlateControls | None = None

    @property
    def selected(self) -> tuple[str, ...]:
        """Names of the wells that are selected."""
        try:
            return session.selected(self._sources[0].plate)
        except OpenHCSError:
            return ()

    def values(self, source: Source) -> list[float]:
        """Return the number of each well, row by row."""
        if not source.tables or self.column not in source.columns(self._table_of(source)):
            return [math.nan] * (source.plate.rows * source.plate.columns)
        return source.values(self._table_of(source), self.column, self.statistic)

    def limits(self) -> tuple[float, float]:
        """Return what the map's colours begin and end with, the same for both sources."""
        if self.scale is not None:
            return self.scale
        values = [value for source in self._sources for value in self.values(source) if not math.isnan(value)]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        return low, high if high > low else low + 1.0

    def label(self) -> str:
        """Say what the map shows."""
        return f"{self.statistic} {self.column}" if self.column else "wells"

    def _table_of(self, source: Source) -> str:
        return self.table if self.table in source.tables else source.tables[0]

    def _static(self) -> dict[str, Any]:
        low, high = self.limits()
        texts, marks = [], []
        for source in self._sources:
            rows, columns, values = source.plate.rows, source.plate.columns, self.values(source)
            title = f"{source.title}: {self.label()}, {low:.4g} to {high:.4g}"
            texts.append(f"{title}\n{still.value_text(rows, columns, values, low, high)}")
            drawn = still.value_map(rows, columns, values, low, high, self.color_map)
            marks.append(f'<div style="margin-right:24px"><div>{title}</div>{drawn}</div>')
        return {
            "text/plain": "\n\n".join(texts),
            "text/html": f'<div style="display:flex;flex-wrap:wrap">{"".join(marks)}</div>',
        }

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002
        forms = self._static()
        if is_watched():
            if self._controls is None:
                from openhcs_jupyter.widgets.plate_controls import PlateControls

                self._controls = PlateControls(self, self._sources)
            forms |= widget_view(self._controls.root)
        return forms
