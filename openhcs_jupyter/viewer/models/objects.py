"""Rows as they are shown: features of labels, and points where they lie in the window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from openhcs_jupyter.streaming.layers import Layer, RunView
from openhcs_jupyter.viewer.models.axes import Position
from openhcs_jupyter.viewer.models.layout import Tile
from openhcs_jupyter.viewer.models.rows import RowsKey
from openhcs_jupyter.viewer.models.runs import RunModel
from openhcs_jupyter.viewer.models.scene import Scene

if TYPE_CHECKING:
    import pandas as pd

LABEL_COLUMN = "label"
_MOST_PLACES = 64
"""Objects are told apart in so many fields at a time; of a plate only planes are shown."""

Get = Callable[[Sequence[RowsKey]], Mapping[RowsKey, "pd.DataFrame"]]


def tables_of(view: RunView, labels: Layer) -> list[Layer]:
    """List the tables whose rows are the objects of a labels layer."""
    return [layer for layer in view.layers if layer.kind == "table" and layer.over == labels.index]


def feature_frame(run: RunModel, scene: Scene, position: Position, get: Get) -> pd.DataFrame:
    """Return what the tables say of the labels that are shown: a column ``index`` with the number that is shown."""
    import pandas as pd

    places = {(key.well, key.field): key for key in scene.planes(position)}
    joined: pd.DataFrame | None = None
    for table in tables_of(run.view, scene.layer):
        keys = _keys(run, table, places)
        parts = []
        for key, frame in get(keys).items():
            if LABEL_COLUMN in frame:
                shown = frame[LABEL_COLUMN].map(lambda label, field=key.field: scene.label_of(int(label), field))
                parts.append(frame.assign(index=shown))
        if parts:
            whole = pd.concat(parts, ignore_index=True).drop_duplicates("index")
            if joined is None:
                joined = whole
            else:
                new = [name for name in whole if name not in joined or name == "index"]
                joined = joined.merge(whole[new], on="index", how="outer")
    return pd.DataFrame({"index": []}) if joined is None else joined


def point_frame(run: RunModel, layer: Layer, tiles: Sequence[Tile], position: Position, get: Get) -> pd.DataFrame:
    """Return the points that are shown: ``y`` and ``x`` in pixels of the window, other columns as they are."""
    import pandas as pd

    offsets = {(tile.well, tile.field): tile for tile in tiles}
    parts = []
    for key, frame in get(_keys(run, layer, offsets)).items():
        tile = offsets[key.well, key.field]
        part = frame.assign(y=frame["y"] + tile.y, x=frame["x"] + tile.x)
        for axis, at in (("t", position.t), ("z", position.z)):
            # Points of a projection carry one z, and are shown at every slice.
            if axis in part and len(part) and part[axis].min() < part[axis].max():
                part = part[part[axis].round() == at]
        parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"y": [], "x": []})


def _keys(run: RunModel, layer: Layer, places: Mapping[tuple[int, int], object]) -> list[RowsKey]:
    if len(places) > _MOST_PLACES:
        return []
    keys = []
    for well, field in places:
        ready = run.tables.get((layer.index, well, field))
        if ready is not None:
            keys.append(RowsKey(run.view.id, layer.index, well, field, ready.version))
    return keys
