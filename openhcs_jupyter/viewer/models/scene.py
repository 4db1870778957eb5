"""One lazy array for each layer, at full extents from the start: it draws what the store holds and never waits."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.streaming.layers import Layer, RunView
from openhcs_jupyter.viewer.models.axes import Axes, Position
from openhcs_jupyter.viewer.models.layout import Layout, Tile
from openhcs_jupyter.viewer.models.planes import Pixels, PlaneKey, PlaneStore, fitted

COARSEST = 1024
"""The coarsest level of a layer is at most this long and wide."""
FIELD_STRIDE = 1 << 20
"""In a mosaic a label is raised by this for each field before its own, so that no two objects share a label."""
_CANVASES = 2

Region = tuple[slice, slice]


class Placed(NamedTuple):
    """A plane and where it lies."""

    key: PlaneKey
    y: int
    """Upper edge in full pixels of the layer."""
    x: int


class Scene:
    """The levels of one layer, as arrays ``(wells, fields, T, Z, Y, X)`` that napari slices.

    Parameters
    ----------
    view, layer
        What is shown; the layer's sizes must be known.
    axes, layout
        How it is laid out.
    store
        Where its planes are.
    """

    def __init__(self, view: RunView, layer: Layer, axes: Axes, layout: Layout, store: PlaneStore) -> None:
        self.view, self.layer, self.axes, self.layout = view, layer, axes, layout
        self.store = store
        self.dtype = np.dtype(np.int32 if layer.kind == "labels" else layer.dtype)
        self._raises = layer.kind == "labels" and layout.mode != "field" and layer.scope == "field"
        wells = len(axes.wells) if layout.mode != "plate" else 1
        fields = len(axes.fields) if layout.mode == "field" else 1
        self.shape = (max(wells, 1), max(fields, 1), axes.size_t, axes.size_z, *layout.shape(layer))
        self._wells = {well.name: index for index, well in enumerate(view.wells)}
        self._fields = {number: index for index, number in enumerate(view.fields)}
        self.levels = tuple(SceneLevel(self, level) for level in range(self._depth()))
        self._placed: tuple[Position | None, dict[PlaneKey, Placed]] = (None, {})

    def _depth(self) -> int:
        # Two at least: napari takes a single one for an image without levels.
        longest = max(self.shape[-2:])
        return 1 + max(1, math.ceil(math.log2(longest / COARSEST)))

    def planes(self, position: Position) -> dict[PlaneKey, Placed]:
        """Return the planes at a position of the sliders, whether they are there or not."""
        if self._placed[0] != position:
            self._placed = (position, {placed.key: placed for placed in self._planes(position)})
        return self._placed[1]

    def _planes(self, position: Position) -> list[Placed]:
        well = self._wells.get(self.axes.wells[position.well]) if position.well < len(self.axes.wells) else None
        field = self._fields.get(self.axes.fields[position.field]) if position.field < len(self.axes.fields) else None
        # A layer with one slice or one time point is shown at all of them.
        t = position.t if self.layer.size_t > 1 else 0
        z = position.z if self.layer.size_z > 1 else 0
        if t >= self.layer.size_t or z >= self.layer.size_z:
            return []
        tiles: Sequence[Tile] = self.layout.tiles(self.view, self.layer, well, field)
        return [
            Placed(PlaneKey(self.view.id, self.layer.index, tile.well, tile.field, t, z), tile.y, tile.x)
            for tile in tiles
        ]

    def visible(self, position: Position, level: int, region: Region) -> list[PlaneKey]:
        """List the planes of which something lies in a region of a level."""
        placed = self.planes(position).values()
        if len(placed) <= 1:
            return [one.key for one in placed]
        height, width = (-(-size >> level) for size in (self.layer.size_y, self.layer.size_x))
        return [
            one.key
            for one in placed
            if (one.y >> level) < region[0].stop
            and (one.x >> level) < region[1].stop
            and (one.y >> level) + height > region[0].start
            and (one.x >> level) + width > region[1].start
        ]

    def spoil(self, keys: Collection[PlaneKey] | None) -> None:
        """Say that planes have changed, None all: what was drawn of them is drawn again when it is next looked at."""
        for level in self.levels:
            level.spoil(keys)

    def raised(self, array: Pixels, field: int) -> Pixels:
        """Return labels as they are shown in a mosaic."""
        if not self._raises:
            return array
        labels = array.astype(np.int32)
        return np.where(labels > 0, labels + field * FIELD_STRIDE, 0)

    def label_of(self, label: int, field: int) -> int:
        """Return the number under which an object of a field is shown."""
        return label + field * FIELD_STRIDE if self._raises else label


class _Canvas:
    """What was drawn of one slice of one level."""

    def __init__(self, position: Position, region: Region, dtype: np.dtype[Any]) -> None:
        self.position, self.region = position, region
        self.array: Pixels = np.zeros([part.stop - part.start for part in region], dtype)
        self.spoilt: set[PlaneKey] | None = None
        """Planes that must be drawn again; None is all."""


class SceneLevel:
    """One level of a scene, which napari takes for an array."""

    ndim = 6

    def __init__(self, scene: Scene, level: int) -> None:
        self._scene = scene
        self._level = level
        self.dtype = scene.dtype
        self.shape = (*scene.shape[:4], *(-(-size >> level) for size in scene.shape[4:]))
        self._canvases: list[_Canvas] = []

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __getitem__(self, index: Any) -> Any:
        return _Part(self, tuple(range(size) for size in self.shape))[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].__array__(dtype, copy)  # type: ignore[no-any-return]  # the library is not typed

    def spoil(self, keys: Collection[PlaneKey] | None) -> None:
        """Draw these planes, or all, again when they are next looked at."""
        for canvas in self._canvases:
            if keys is None:
                canvas.spoilt = None
            elif canvas.spoilt is not None:
                canvas.spoilt.update(keys)

    def draw(self, position: Position, region: Region) -> Pixels:
        """Return what the store holds of a region, ``(Y, X)``; what is not there is 0."""
        canvas = self._canvas(position, region)
        if canvas.spoilt is None or canvas.spoilt:
            planes = self._scene.planes(position)
            if canvas.spoilt is None:
                canvas.array[:] = 0
            for key in planes.keys() if canvas.spoilt is None else canvas.spoilt & planes.keys():
                self._draw(canvas, planes[key])
            canvas.spoilt = set()
        return canvas.array

    def _canvas(self, position: Position, region: Region) -> _Canvas:
        for canvas in self._canvases:
            if canvas.position == position and canvas.region == region:
                return canvas
        canvas = _Canvas(position, region, self.dtype)
        self._canvases = [canvas, *self._canvases[: _CANVASES - 1]]
        return canvas

    def _draw(self, canvas: _Canvas, placed: Placed) -> None:
        held = self._scene.store.best(placed.key, self._level)
        if held is None:
            return
        plane = fitted(held, self._level)
        rows = _overlap(canvas.region[0], placed.y >> self._level, plane.shape[0])
        columns = _overlap(canvas.region[1], placed.x >> self._level, plane.shape[1])
        if rows and columns:
            part = plane[rows[1], columns[1]]
            canvas.array[rows[0], columns[0]] = self._scene.raised(part, placed.key.field)


class _Part:
    """Some of a level, not drawn yet: napari takes slices of slices."""

    def __init__(self, level: SceneLevel, ranges: tuple[range | int, ...]) -> None:
        self._level, self._ranges = level, ranges
        self.dtype = level.dtype
        self.shape = tuple(len(one) for one in ranges if isinstance(one, range))
        self.ndim = len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: Any) -> Any:
        parts = _explicit(index, self.ndim)
        free = iter(parts)
        ranges = tuple(one[next(free)] if isinstance(one, range) else one for one in self._ranges)
        part = _Part(self._level, ranges)
        return part.__array__() if all(isinstance(one, int) for one in ranges[:4]) else part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        ranges = [one if isinstance(one, range) else range(one, one + 1) for one in self._ranges]
        y, x = (slice(one.start, one.stop) if one else slice(0, 0) for one in ranges[4:])
        planes = [self._level.draw(position, (y, x)) for position in _positions(ranges)]
        first = planes[0] if planes else np.zeros((y.stop - y.start, x.stop - x.start), self.dtype)
        whole = first if len(planes) == 1 else np.stack(planes)
        # Steps other than 1 are taken of what was drawn.
        result = whole[..., :: ranges[4].step, :: ranges[5].step].reshape(self.shape)
        return result if dtype is None else result.astype(dtype)


def _positions(ranges: Sequence[range]) -> Iterator[Position]:
    return (Position(w, f, t, z) for w in ranges[0] for f in ranges[1] for t in ranges[2] for z in ranges[3])


def _explicit(index: Any, ndim: int) -> list[int | slice]:
    """Write an index out: one integer or slice for each axis."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (ndim - len(parts) + 1)
    parts += [slice(None)] * (ndim - len(parts))
    return [part if isinstance(part, slice) else int(part) for part in parts]


def _overlap(window: slice, start: int, length: int) -> tuple[slice, slice] | None:
    """Return where something lies in a window, and which part of it that is; None where it lies outside."""
    low, high = max(window.start, start), min(window.stop, start + length)
    if low >= high:
        return None
    return slice(low - window.start, high - window.start), slice(low - start, high - start)
