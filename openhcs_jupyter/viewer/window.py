"""The layers and sliders of one napari window: which layers there are, where they lie, which planes are looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from openhcs_jupyter.streaming.layers import Layer, RunView
from openhcs_jupyter.viewer.models.axes import AXIS_LABELS, Axes, Position
from openhcs_jupyter.viewer.models.colours import channel_colours
from openhcs_jupyter.viewer.models.layout import Layout, Mode, Tile, pixel_um
from openhcs_jupyter.viewer.models.planes import PlaneKey, PlaneStore
from openhcs_jupyter.viewer.models.runs import RunModel
from openhcs_jupyter.viewer.models.scene import Region, Scene
from openhcs_jupyter.viewer.views.layers import ImageView, LabelsView, PixelView, PointsView

Ref = tuple[str, int]
"""A run's id and the index of one of its layers."""
_KINDS = {"image": 0, "labels": 1, "points": 2}
_WELL, _FIELD, _T, _Z = range(4)


class Look(NamedTuple):
    """What a layer shows."""

    ref: Ref
    level: int
    region: Region
    position: Position


class Window:
    """Layers of runs in a napari window.

    Parameters
    ----------
    viewer
        napari's; layers that others put into it are left alone.
    store
        Where planes are.
    runs
        The runs that are known, by id; owned by the controller.
    """

    def __init__(self, viewer: Any, store: PlaneStore, runs: Mapping[str, RunModel]) -> None:
        self.viewer = viewer
        self._store, self._runs = store, runs
        self.mode: Mode = "field"
        self.axes = Axes()
        self.layout = Layout(self.mode, ())
        self.pixels: dict[Ref, PixelView] = {}
        self.points: dict[Ref, PointsView] = {}
        self.well: str | None = None
        """The well that is looked at, also while the whole plate is shown."""
        self.field: int | None = None
        self.is_going = False
        """The sliders are being moved, but not by the user."""
        self._empty = True

    @property
    def position(self) -> Position:
        """Where the sliders stand."""
        dims = self.viewer.dims
        if dims.ndim < len(AXIS_LABELS):
            return Position()
        first = dims.ndim - len(AXIS_LABELS)
        scale = (1, 1, 1, self.axes.z_step_um or 1.0)
        return Position(*(max(0, round(dims.point[first + axis] / scale[axis])) for axis in range(4)))

    def add(self, run: str, index: int, *, visible: bool) -> None:
        """Make a layer, or bring it up to date when its sizes have changed.

        Parameters
        ----------
        run, index
            The layer.
        visible
            Show it, if it is one of those that are shown at first.
        """
        model = self._runs[run]
        with self._own_moves():
            self._extend()
            self._add(run, model.view.layers[index], visible=visible and index in shown_first(model.view))

    def _add(self, run: str, layer: Layer, *, visible: bool) -> None:
        index = layer.index
        if layer.kind == "points":
            if (run, index) not in self.points:
                self.points[run, index] = PointsView(self._name(run, layer), pixel_um(layer), visible=visible)
                self._insert((run, index), self.points[run, index].layer)
        elif layer.is_known and layer.kind in _KINDS:
            if (run, index) in self.pixels:
                self.pixels[run, index].show(self._scene(run, layer))
            else:
                self.pixels[run, index] = self._new_view(run, layer, visible=visible)
                self._insert((run, index), self.pixels[run, index].layer)

    def arrange(self, mode: Mode) -> None:
        """Lay the fields out in another way."""
        self.mode = mode
        with self._own_moves():
            self._extend(force=True)
            for points in self.points.values():
                points.clear()  # theirs are places of the former layout
            self.go(self.well, self.field)
            self.viewer.reset_view()

    def go(self, well: str | None, field: int | None = None) -> None:
        """Go to a well, and to a field by its number; None stays."""
        self.well = well if well in self.axes.wells else self.well
        self.field = field if field in self.axes.fields else self.field
        if self.viewer.dims.ndim < len(AXIS_LABELS):
            return
        first = self.viewer.dims.ndim - len(AXIS_LABELS)
        at = {}
        if self.mode != "plate" and self.well is not None:
            at[first + _WELL] = self.axes.wells.index(self.well)
        if self.mode == "field" and self.field is not None:
            at[first + _FIELD] = self.axes.fields.index(self.field)
        if at:  # in one call: each is followed by `follow_sliders`
            with self._own_moves():
                self.viewer.dims.set_point(list(at), list(at.values()))

    def centre(self, well: str) -> None:
        """Bring a well of the plate into the middle of the window."""
        rect = self.layout.well_rect(well)
        if rect is not None:
            self.viewer.scene.camera.center = (0, rect.y + rect.height / 2, rect.x + rect.width / 2)

    def follow_sliders(self) -> None:
        """Take the well and field from the sliders, which the user may have moved."""
        position = self.position
        if self.mode != "plate" and position.well < len(self.axes.wells):
            self.well = self.axes.wells[position.well]
        if self.mode == "field" and position.field < len(self.axes.fields):
            self.field = self.axes.fields[position.field]

    def choose(self, run: str) -> None:
        """Show one run's layers and hide the others'."""
        first = shown_first(self._runs[run].view)
        for (owner, index), shown in self._all():
            shown.layer.visible = owner == run and index in first

    def draw(self) -> None:
        """Choose level and region of each layer, as napari does whenever it draws."""
        self.viewer.window._qt_viewer.canvas.on_draw()

    def spoil(self, keys: Collection[PlaneKey]) -> None:
        """Paint planes that have arrived."""
        by_layer: dict[Ref, set[PlaneKey]] = {}
        for key in keys:
            by_layer.setdefault((key.run, key.layer), set()).add(key)
        for ref, changed in by_layer.items():
            shown = self.pixels.get(ref)
            if shown is None:
                continue
            shown.scene.spoil(changed)
            if shown.layer.visible and changed & shown.scene.planes(self.position).keys():
                shown.repaint()

    def forget(self, run: str) -> None:
        """Paint a run as if nothing of it were there."""
        for (owner, _), shown in self.pixels.items():
            if owner == run:
                shown.scene.spoil(None)
                shown.repaint()

    def looks(self) -> tuple[Look, ...]:
        """Say what each visible layer shows."""
        position = self.position
        return tuple(Look(ref, *shown.region(), position) for ref, shown in self.pixels.items() if shown.layer.visible)

    def planes(self, look: Look) -> list[PlaneKey]:
        """List the planes of which a layer shows something."""
        return self.pixels[look.ref].scene.visible(look.position, look.level, look.region)

    def neighbours(self, look: Look) -> Iterator[PlaneKey]:
        """Iterate over the planes that one step of a slider would show."""
        scene = self.pixels[look.ref].scene
        if self.mode == "plate":
            return
        for axis in (_Z, _T, _FIELD, _WELL):
            for step in (1, -1):
                at = list(look.position)
                at[axis] += step
                if 0 <= at[axis] < scene.shape[axis]:
                    yield from scene.planes(Position(*at))

    def tiles(self, view: RunView, layer: Layer) -> list[Tile]:
        """List the places of a layer that are looked at."""
        well = next((i for i, one in enumerate(view.wells) if one.name == self.well), None)
        field = view.fields.index(self.field) if self.field in view.fields else None
        return self.layout.tiles(view, layer, well, field)

    def place_text(self) -> str:
        """Say what is looked at."""
        if self.well is None:
            return ""
        field = f" · field {self.field}" if self.mode == "field" and self.field is not None else ""
        return f"{self.well}{field}"

    def show_place(self) -> None:
        """Write into the picture what is looked at."""
        overlay = self.viewer.canvas.overlays.text
        overlay.position = "top_left"
        overlay.visible = self.mode != "plate"
        overlay.text = self.place_text()

    @contextmanager
    def _own_moves(self) -> Iterator[None]:
        before, self.is_going = self.is_going, True
        try:
            yield
        finally:
            self.is_going = before

    def _all(self) -> Iterator[tuple[Ref, PixelView | PointsView]]:
        yield from self.pixels.items()
        yield from self.points.items()

    def _extend(self, *, force: bool = False) -> None:
        """Bring axes and layout up to date; where they have changed, all layers are arranged anew."""
        views = [model.view for model in self._runs.values()]
        axes = self.axes.joined(views)
        layout = Layout(self.mode, views)
        if not force and axes == self.axes and layout.same_as(self.layout):
            return
        self.axes, self.layout = axes, layout
        for (run, index), shown in self.pixels.items():
            shown.show(self._scene(run, self._runs[run].view.layers[index]))
        self.go(self.well, self.field)  # the same names may stand at other numbers now

    def _scene(self, run: str, layer: Layer) -> Scene:
        return Scene(self._runs[run].view, layer, self.axes, self.layout, self._store)

    def _new_view(self, run: str, layer: Layer, *, visible: bool) -> PixelView:
        view, name = self._runs[run].view, self._name(run, layer)
        if layer.kind == "labels":
            return LabelsView(name, self._scene(run, layer), visible=visible)
        siblings = [other for other in view.layers if other.kind == "image" and other.result == layer.result]
        colour = channel_colours(siblings)[siblings.index(layer)]
        return ImageView(name, self._scene(run, layer), colour, visible=visible)

    def _name(self, run: str, layer: Layer) -> str:
        alone = next(iter(self._runs)) == run
        return layer.name if alone else f"{self._runs[run].view.name}: {layer.name}"

    def _insert(self, ref: Ref, layer: Any) -> None:
        """Put a layer above those that lie below it: images, labels, points."""
        ours = {id(shown.layer): self._rank(other) for other, shown in self._all()}
        rank = self._rank(ref)
        at = next(
            (i for i, other in enumerate(self.viewer.layers) if ours.get(id(other), rank) > rank),
            len(self.viewer.layers),
        )
        self.viewer.layers.insert(at, layer)
        if self._empty and layer.ndim == len(AXIS_LABELS):
            self._empty = False
            self.viewer.dims.axis_labels = AXIS_LABELS
            self.viewer.canvas.overlays.scale_bar.visible = True
            self.go(self.well or next(iter(self.axes.wells), None), self.field or next(iter(self.axes.fields), None))
            self.viewer.reset_view()

    def _rank(self, ref: Ref) -> tuple[int, int, int]:
        kind = self._runs[ref[0]].view.layers[ref[1]].kind
        return _KINDS[kind], list(self._runs).index(ref[0]), ref[1]


def shown_first(view: RunView) -> set[int]:
    """Choose the layers that are visible at first: the labels, the points, and the images over which they lie.

    Where a run has no labels or points, the images that it made last are shown.
    """
    over = [layer for layer in view.layers if layer.kind in ("labels", "points")]
    below = [view.layers[layer.over] for layer in over if layer.over is not None]
    images = below or [layer for layer in view.layers if layer.kind == "image"]
    last = images[-1].result if images else None
    shown = {layer.index for layer in view.layers if layer.kind == "image" and layer.result == last}
    labels = [layer.index for layer in over if layer.kind == "labels"]
    return shown | set(labels[-1:]) | {layer.index for layer in over if layer.kind == "points"}
