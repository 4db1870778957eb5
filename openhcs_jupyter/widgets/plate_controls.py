"""The controls of a plate view, and what they do to its map and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import lazy_loader

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.model import well_name
from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.fields import Look, Painter, Place
from openhcs_jupyter.widgets.plate_map import PlateMap
from openhcs_jupyter.widgets.session import session
from openhcs_jupyter.widgets.sources import STATISTICS, Shown, Source
from openhcs_jupyter.widgets.tiles import Tiles

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_loader.load("numpy")

_FINEST = 2048
_ALL, _MAX, _NONE = "all", "max", "none"
_OUTLINES, _AREAS = "outlines", "areas"
_MOST_FIELDS = 4


class PlateControls:
    """The widgets of a plate view, and what they do."""

    def __init__(self, view: PlateMap) -> None:
        from openhcs_jupyter.widgets.canvas import ImageCanvas, PlateCanvas

        self._view = view
        self._painter = Painter()
        self._places: dict[str, Place] = {}
        self._contrasts: set[tuple[str, str]] = set()
        """Images and channels whose contrast has been chosen."""
        self._settling = False
        """Controls are being set by us, not by the user."""
        self._side = 480
        self._fine = 0
        """Pixels that pictures need where somebody has zoomed in."""
        self._maps = []
        for number, source in enumerate(view.sources):
            plate = {"rows": source.plate.rows, "columns": source.plate.columns, "title": source.title}
            present = bytearray(source.plate.rows * source.plate.columns)
            for well in source.plate.wells:
                present[well.row * source.plate.columns + well.column] = 1
            self._maps.append(PlateCanvas(partial(self._answer, number), plate=plate, present=bytes(present)))
        self._images = ImageCanvas(self._answered)
        self._tiles = Tiles(self._images.send)
        self.root = self._layout()
        self._color()

    # What stands where.

    def _layout(self) -> Any:
        import ipywidgets as w

        source = self._view.sources[0]
        view = self._view
        narrow = w.Layout(width="auto", min_width="90px")

        def choice(label: str, options: Sequence[Any], value: Any) -> Any:
            made = w.Dropdown(options=options, value=value, description=label, layout=narrow)
            made.style.description_width = "initial"
            return made

        self._table = choice("Table", source.tables, view.table)
        self._column = choice("Colour by", source.columns(view.table) if view.table else [], view.column or None)
        self._statistic = choice("", STATISTICS, view.statistic)
        self._map = choice("Colours", pictures.COLOR_MAPS, view.color_map)
        low, high = view.limits()
        self._low = w.FloatText(low, description="from", layout=w.Layout(width="130px"), step=None)
        self._high = w.FloatText(high, description="to", layout=w.Layout(width="130px"), step=None)
        for box in (self._low, self._high):
            box.style.description_width = "initial"
        self._auto = w.ToggleButton(value=True, description="Auto", layout=w.Layout(width="60px"))
        names = [shown.name for shown in source.images]
        self._image = choice("Image", names, names[0])
        fields = sorted({field for well in source.plate.wells for field in source.fields(well.name)})
        self._field = choice("Field", [_ALL, *fields], _ALL if len(fields) <= _MOST_FIELDS else fields[0])
        self._z = choice("z", [_MAX], _MAX)
        self._labels = choice("Labels", [_NONE, *source.labels], source.labels[0] if source.labels else _NONE)
        self._style = choice("as", [_OUTLINES, _AREAS], _OUTLINES)
        self._channels = w.VBox([])
        self._chosen = w.HTML()
        for box in (self._table, self._column, self._statistic, self._map, self._low, self._high, self._auto):
            box.observe(self._recolor, "value")
        for box in (self._image, self._field, self._z, self._labels, self._style):
            box.observe(self._look_changed, "value")
        self._sliders: dict[str, tuple[Any, Any]] = {}
        self._make_sliders()
        wrap = w.Layout(flex_flow="row wrap")
        color = w.HBox(
            [self._table, self._column, self._statistic, self._map, self._low, self._high, self._auto], layout=wrap
        )
        look = [self._image, self._field, self._z]
        if source.labels:
            look += [self._labels, self._style]
        maps = w.HBox([w.VBox([*self._maps, self._chosen])])
        pictures_ = w.VBox([w.HBox(look, layout=wrap), self._channels, self._images])
        return w.VBox([color, w.HBox([maps, pictures_], layout=w.Layout(flex_flow="row wrap", grid_gap="20px"))])

    def _make_sliders(self) -> None:
        """Make a row for each channel of the image that is shown."""
        import ipywidgets as w

        self._sliders = {}
        rows = []
        shown = self._shown()
        for name, tint in zip(shown.channels, shown.tints, strict=True):
            on = w.Checkbox(True, description=name, indent=False, layout=w.Layout(width="110px"))
            contrast = w.FloatRangeSlider(
                value=(0, 1), min=0, max=1, readout_format=".5g", layout=w.Layout(width="330px"),
            )  # fmt: skip
            contrast.style.handle_color = "#{:02x}{:02x}{:02x}".format(*tint)
            auto = w.Button(description="Auto", layout=w.Layout(width="56px"), tooltip=f"Contrast of {name} anew")
            auto.on_click(partial(self._forget_contrast, name))
            on.observe(self._redraw, "value")
            contrast.observe(self._redraw, "value")
            self._sliders[name] = on, contrast
            rows.append(w.HBox([on, contrast, auto]))
        self._channels.children = rows

    def _shown(self) -> Shown:
        return next(shown for shown in self._view.sources[0].images if shown.name == self._image.value)

    # The map.

    def _recolor(self, change: Mapping[str, Any]) -> None:
        view, owner = self._view, change["owner"]
        if owner is self._table:
            view.table = self._table.value
            columns = self._view.sources[0].columns(view.table)
            self._column.options = columns
            view.column = self._column.value = columns[0]
        view.column, view.statistic, view.color_map = self._column.value, self._statistic.value, self._map.value
        if owner in (self._low, self._high) and not self._settling:
            self._auto.value = False
        view.scale = None if self._auto.value else (self._low.value, self._high.value)
        self._color()

    def _color(self) -> None:
        low, high = self._view.limits()
        self._settling = True
        try:
            self._low.value, self._high.value = (float(f"{limit:.4g}") for limit in (low, high))
        finally:
            self._settling = False
        for source, canvas in zip(self._view.sources, self._maps, strict=True):
            with canvas.hold_sync():
                canvas.values = np.asarray(self._view.values(source), np.float32).tobytes()
                canvas.colors = pictures.color_table(self._view.color_map)
                canvas.scale = {"low": low, "high": high, "label": self._view.label()}

    def _answer(self, number: int, content: Mapping[str, Any]) -> None:
        plate = self._view.sources[number].plate
        if content.get("type") == "open":
            name = well_name(*divmod(int(content["well"]), plate.columns))
            self._view.wells = [*self._view.wells[:1], name] if content.get("compare") and self._view.wells else [name]
            self._open()
        elif content.get("type") == "select":
            wells = tuple(well_name(*divmod(int(at), plate.columns)) for at in sorted(content["wells"]))
            session.select(plate, wells)
            for canvas in self._maps:
                canvas.selected = sorted(int(at) for at in content["wells"])
            self._chosen.value = _chosen_text(wells)

    # The pictures.

    def _open(self) -> None:
        plate = self._view.sources[0].plate
        wells = [well for name in self._view.wells if (well := plate.well(name)) is not None]
        for canvas in self._maps:
            canvas.marked = [well.row * plate.columns + well.column for well in wells]
        self._arrange()

    def _look_changed(self, change: Mapping[str, Any]) -> None:
        if change["owner"] is self._image:
            self._make_sliders()
            self._z.options = [_MAX]
        self._arrange()

    def _redraw(self, _: object) -> None:
        if not self._settling:
            self._draw_all()

    def _forget_contrast(self, channel: str, _: object) -> None:
        self._contrasts.discard((self._image.value, channel))
        self._draw_all()

    def _look(self) -> Look:
        return Look(
            image=self._image.value,
            channels=tuple(name for name, (on, _) in self._sliders.items() if on.value),
            z=None if self._z.value == _MAX else int(self._z.value) - 1,
            labels=None if self._labels.value == _NONE else self._labels.value,
            areas=self._style.value == _AREAS,
        )

    def _arrange(self) -> None:
        """Make a tile for each field; two wells, or two sources, stand beside each other."""
        groups = [
            [Place(source, well, field) for field in self._fields(source, well)]
            for well in self._view.wells
            for source in self._view.sources
        ]
        count = sum(map(len, groups))
        if len(groups) == 1:
            places, columns = groups[0], 1 if count == 1 else 2
        else:
            places = [place for row in zip_longest(*groups) for place in row if place is not None]
            columns = len(groups)
        self._side = {1: 520, 2: 340}.get(columns, 230)
        several = len(self._view.sources) > 1
        self._places = {f"{self._view.sources.index(source)} {well} {field}": Place(source, well, field)
                        for source, well, field in places}  # fmt: skip
        with self._images.hold_sync():
            self._images.columns, self._images.side = columns, self._side
            self._images.tiles = [
                {"id": tile, "caption": f"{f'{source.title}, ' if several else ''}{well} field {field}"}
                for tile, (source, well, field) in self._places.items()
            ]
        self._draw_all()

    def _fields(self, source: Source, well: str) -> tuple[int, ...]:
        fields = source.fields(well)
        if self._field.value == _ALL:
            return fields[:_MOST_FIELDS]
        return tuple(field for field in fields if field == self._field.value)

    def _draw_all(self) -> None:
        look, side = self._look(), max(self._side, self._fine)
        self._tiles.show({tile: partial(self._drawn, place, look, side) for tile, place in self._places.items()})

    def _drawn(self, place: Place, look: Look, side: int) -> bytes:
        try:
            contrast = {name: self._contrast(place, look, name, side) for name in look.channels}
            picture = self._painter.draw(place, look, contrast, side)
        except OpenHCSError as error:
            self._images.note = error.message
            return b""
        self._images.note = ""
        return pictures.encoded(picture)

    def _contrast(self, place: Place, look: Look, channel: str, side: int) -> tuple[float, float]:
        """Return what is black and what is brightest; the first plane decides, so that wells can be compared."""
        slider = self._sliders[channel][1]
        if (look.image, channel) not in self._contrasts:
            plane, slices = self._painter.plane(place, look, channel, side)
            self._contrasts.add((look.image, channel))
            low, high = pictures.limits(plane)
            least, most = min(0.0, low, float(np.nanmin(plane))), max(float(np.nanmax(plane)), 2 * high - low)
            self._settling = True
            try:
                with slider.hold_sync():  # the browser would answer a range without its value with a value of its own
                    slider.min, slider.max = min(slider.min, least), max(slider.max, most)
                    slider.value = (low, high)
                    slider.min, slider.max, slider.step = least, most, (most - least) / 500
                if slices >= len(self._z.options):
                    self._z.options = (_MAX, *range(1, slices + 1)) if slices > 1 else (_MAX,)
            finally:
                self._settling = False
        low, high = slider.value
        return float(low), float(high)

    def _answered(self, content: Mapping[str, Any]) -> None:
        if content.get("type") == "ack":
            self._tiles.answered(int(content["number"]))
        elif content.get("type") == "finer":
            self._fine = min(_FINEST, int(2 * self._side * float(content["zoom"])))
            self._draw_all()


def _chosen_text(wells: Sequence[str]) -> str:
    if not wells:
        return ""
    shown = ", ".join(wells[:6]) + (f" and {len(wells) - 6} more" if len(wells) > 6 else "")
    return f"{len(wells)} selected: {shown}<br>next cell: <code>--wells selected</code>"
