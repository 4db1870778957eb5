"""Writes tables as OMERO.tables, linked so that OMERO.web shows a row's values at its well or image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.omero.address import Source
from openhcs_jupyter.repository.omero.annotations import link_file

if TYPE_CHECKING:
    import pandas as pd

BULK = "openmicroscopy.org/omero/bulk_annotations"
_MOST_COLUMNS = 512
_CELLS = 500_000
"""Sent in one call; two million are too many."""
_IDS = {"Plate": "PlateColumn", "Well": "WellColumn", "Image": "ImageColumn", "Roi": "RoiColumn"}


def write_table(
    session: Any,
    title: Callable[[str], str],
    table: pd.DataFrame,
    ids: pd.DataFrame,
    source: Source,
    marker: str,
    context: dict[str, str],
) -> list[int]:
    """Write a table; one of more than 512 columns in several, each with the ids.

    Parameters
    ----------
    session
        The service factory.
    title
        Names the table's file; gets what tells its parts apart.
    table
        Its rows.
    ids
        For each row ids named Plate, Well, Image or Roi; -1 where there is none.
    source
        To which it is linked.
    marker
        Description of its annotation, by which a run finds its own.
    context
        The group in which it is written.

    Returns
    -------
    list of int
        Ids of the annotations.
    """
    room = _MOST_COLUMNS - ids.shape[1]
    parts = max(1, math.ceil(table.shape[1] / room))
    made = []
    for part in range(parts):
        columns = table.iloc[:, part * room : (part + 1) * room]
        name = title("" if parts == 1 else f", part {part + 1} of {parts}")
        file = _write(session, name, columns, ids, context)
        made.append(link_file(session, file, BULK, marker, source.kind, source.id, context))
    return made


def _write(session: Any, name: str, table: pd.DataFrame, ids: pd.DataFrame, context: dict[str, str]) -> int:
    columns = [_id_column(str(title), ids[title]) for title in ids.columns]
    columns += [_column(str(title), table.iloc[:, number]) for number, title in enumerate(table.columns)]
    resources = session.sharedResources()
    repository = resources.repositories().descriptions[0].getId().getValue()
    opened = resources.newTable(repository, name, context)
    if opened is None:
        raise RepositoryError(f"OMERO makes no table {name!r}.", "Ask its administrator whether OMERO.tables runs.")
    try:
        opened.initialize([column for column, _ in columns])
        rows = max(1, _CELLS // max(1, len(columns)))
        for start in range(0, len(table), rows):
            for column, values in columns:
                column.values = values[start : start + rows]
            opened.addData([column for column, _ in columns])
        number: int = opened.getOriginalFile().getId().getValue()
    finally:
        opened.close()
    return number


def _id_column(title: str, values: pd.Series[Any]) -> tuple[Any, list[int]]:
    from omero import grid

    return getattr(grid, _IDS[title])(title, "", []), values.astype("int64").tolist()


def _column(title: str, values: pd.Series[Any]) -> tuple[Any, list[Any]]:
    from omero import grid

    kind = values.dtype.kind if hasattr(values.dtype, "kind") else "O"
    if kind == "b":
        return grid.BoolColumn(title, "", []), values.tolist()
    if kind in "iu":
        return grid.LongColumn(title, "", []), values.astype("int64").tolist()
    if kind == "f":
        return grid.DoubleColumn(title, "", []), values.astype("float64").tolist()
    texts = ["" if value is None or value != value else str(value) for value in values]
    size = max([1, *(len(text.encode()) for text in texts)])
    return grid.StringColumn(title, "", size, []), texts
