"""The plate view: a map coloured by a column of a table, and the fields of the wells that are opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.widgets import still
from openhcs_jupyter.widgets.plate_map import PlateMap
from openhcs_jupyter.widgets.session import is_watched, session, widget_view
from openhcs_jupyter.widgets.sources import Viewable, source_of

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


class PlateView(PlateMap):
    """What `plate_view` returns: shows itself where a cell ends in it."""

    _controls: PlateControls | None = None

    @property
    def selected(self) -> tuple[str, ...]:
        """Names of the wells that are selected."""
        try:
            return session.selected(self.sources[0].plate)
        except OpenHCSError:
            return ()

    def _static(self) -> dict[str, Any]:
        low, high = self.limits()
        texts, marks = [], []
        for source in self.sources:
            rows, columns, values = source.plate.rows, source.plate.columns, self.values(source)
            title = f"{source.title}: {self.label()}, {low:.4g} to {high:.4g}"
            texts.append(f"{title}\n{still.value_text(rows, columns, values, low, high)}")
            drawn = still.value_map(rows, columns, values, low, high, self.color_map)
            marks.append(f'<div style="margin-right:24px"><div>{title}</div>{drawn}</div>')
        return {
            "text/plain": "\n\n".join(texts),
            "text/html": f'<div style="display:flex;flex-wrap:wrap">{"".join(marks)}</div>',
        }

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002 - the interface has it
        forms = self._static()
        if is_watched():
            if self._controls is None:
                from openhcs_jupyter.widgets.plate_controls import PlateControls

                self._controls = PlateControls(self)
            forms |= widget_view(self._controls.root)
        return forms
