"""Answers a viewer's requests from files that lie on its own machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openhcs_jupyter.streaming.board import Board
from openhcs_jupyter.streaming.planes import Reader, coarse, kind_of
from openhcs_jupyter.streaming.source import Plane, PlaneRequest, TableRequest

if TYPE_CHECKING:
    import pyarrow as pa


def plane_here(board: Board, reader: Reader, request: PlaneRequest) -> Plane:
    """Map a plane, or shrink it.

    Raises
    ------
    StreamError
        If it is not there.
    """
    view = board.view(request.run)
    ready = board.stack(request.run, request.layer, request.well, request.field)
    plane = reader.plane(view.folder, ready, request.t, request.z)
    if request.coarse:
        plane = coarse(plane, kind_of(view, request.layer))
        plane.flags.writeable = False
    return Plane(array=plane, version=ready.version)


def table_here(board: Board, reader: Reader, request: TableRequest) -> pa.Table:
    """Map a table.

    Raises
    ------
    StreamError
        If it is not there.
    """
    view = board.view(request.run)
    return reader.table(view.folder, board.table(request.run, request.layer, request.well, request.field))
