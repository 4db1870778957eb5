"""The metadata of OME-Zarr 0.4: plates, wells, multiscale images and labels, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from openhcs_jupyter.model import RECORDED, Channel, ResultSpec, parse_well
from openhcs_jupyter.repository.base import FieldResults
from openhcs_jupyter.repository.embedded.layout import row_name, well_path

GROUP = b'{"zarr_format":2}'

_VERSION = "0.4"
_COARSEST = 256
_COLORS = ("0000FF", "00FF00", "FF0000", "FF00FF", "00FFFF", "FFFF00")


class Scale(NamedTuple):
    """Where the pixels of an image lie, in micrometres."""

    pixel_um: float | None
    z_um: float | None
    centre_um: tuple[float, float] | None
    """Stage position ``(y, x)`` of the image's centre."""
    t_s: float | None = None
    """Seconds from one time point to the next."""

    @classmethod
    def of(cls, field: FieldResults, spec: ResultSpec) -> Scale:
        """Return where the pixels of one result of a field lie."""
        grid, centre, pixel = spec.grid, field.position_um, field.pixel_size_um
        if grid is None:
            return cls(None, field.z_step_um, None, field.t_step_s)
        if grid != RECORDED and centre is not None:
            if pixel is None or field.size is None:
                centre = None
            else:
                height, width = field.arrays[spec.name].shape[-2:]
                centre = (
                    centre[0] + (grid.y + (height * grid.factor - field.size[0]) / 2) * pixel,
                    centre[1] + (grid.x + (width * grid.factor - field.size[1]) / 2) * pixel,
                )
        return cls(pixel * grid.factor if pixel else None, field.z_step_um, centre, field.t_step_s)


class Window(NamedTuple):
    """How a channel is best shown."""

    low: float
    """Below it lies one pixel in a thousand."""
    high: float
    """Above it lies one pixel in a thousand."""
    least: float
    """Of the pixel type; of floating point, of the pixels."""
    most: float


def pyramid_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """List the sizes of the levels: each half of the one before, rounded down, until none exceeds 256 pixels."""
    shapes = [(height, width)]
    while max(shapes[-1]) > _COARSEST:
        shapes.append((max(1, shapes[-1][0] // 2), max(1, shapes[-1][1] // 2)))
    return shapes


def multiscales(name: str, shape: tuple[int, ...], scale: Scale) -> list[dict[str, Any]]:
    """Describe an array's pyramid, axes and place as OME-Zarr's ``multiscales``.

    Parameters
    ----------
    name
        Of the image.
    shape
        ``(T, C, Z, Y, X)`` of the finest level.
    scale
        The translation of each level leads to the centre of its first pixel.
    """
    pixel = scale.pixel_um or 1.0
    height, width = shape[3:]
    corner = [0.0, 0.0]
    if scale.centre_um is not None and scale.pixel_um is not None:
        corner = [
            centre - (size - 1) / 2 * pixel for centre, size in zip(scale.centre_um, (height, width), strict=True)
        ]
    datasets = []
    factors = [1, 1]
    above = (height, width)
    for number, level in enumerate(pyramid_shapes(height, width)):
        if number:
            factors = [factor * (2 if size > 1 else 1) for factor, size in zip(factors, above, strict=True)]
        above = level
        steps = [pixel * factor for factor in factors]
        place = [start + (factor - 1) / 2 * pixel for start, factor in zip(corner, factors, strict=True)]
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [scale.t_s or 1.0, 1.0, scale.z_um or 1.0, *steps]},
                    {"type": "translation", "translation": [0.0, 0.0, 0.0, *place]},
                ],
            }
        )
    seconds = {} if scale.t_s is None else {"unit": "second"}
    axes = [{"name": "t", "type": "time", **seconds}, {"name": "c", "type": "channel"}]
    for axis, length in (("z", scale.z_um), ("y", scale.pixel_um), ("x", scale.pixel_um)):
        unit = {} if length is None else {"unit": "micrometer"}
        axes.append({"name": axis, "type": "space", **unit})
    return [{"version": _VERSION, "name": name, "axes": axes, "datasets": datasets}]


def rendering(
    title: str, spec: ResultSpec, channels: Sequence[Channel], windows: Sequence[Window], size_z: int
) -> dict[str, Any]:
    """Describe how an image's channels are shown: ``omero`` metadata."""
    by_name = {channel.name: channel for channel in channels}
    names = spec.channels if len(spec.channels) == len(windows) else ()
    shown = []
    for index, window in enumerate(windows):
        name = names[index] if names else f"{spec.name} {index + 1}"
        channel = by_name.get(name)
        color = "FFFFFF" if len(windows) == 1 else _COLORS[index % len(_COLORS)]
        if channel is not None and channel.color:
            color = channel.color
        limits = {"start": window.low, "end": window.high, "min": window.least, "max": window.most}
        shown.append({"label": name, "color": color, "active": True, "window": limits})
    defaults = {"defaultT": 0, "defaultZ": size_z // 2, "model": "color"}
    return {"version": _VERSION, "name": title, "channels": shown, "rdefs": defaults}


def plate_metadata(name: str, rows: int, columns: int, wells: Mapping[str, Iterable[int]]) -> dict[str, Any]:
    """Describe a plate: its grid, and the wells that have fields."""
    places = []
    for well in wells:
        row, column = parse_well(well)
        places.append({"path": well_path(well), "rowIndex": row, "columnIndex": column})
    return {
        "plate": {
            "version": _VERSION,
            "name": name,
            "rows": [{"name": row_name(row)} for row in range(rows)],
            "columns": [{"name": str(column + 1)} for column in range(columns)],
            "wells": places,
            "field_count": max(len(set(fields)) for fields in wells.values()),
        }
    }


def well_metadata(fields: Iterable[int]) -> dict[str, Any]:
    """Describe a well by the numbers of its fields."""
    return {"well": {"version": _VERSION, "images": [{"path": str(field - 1)} for field in sorted(fields)]}}


def image_label(image: str | None = None) -> dict[str, Any]:
    """Describe a label image; `image` is the relative path of the image that it lies over."""
    source = {} if image is None else {"source": {"image": image}}
    return {"version": _VERSION, **source}
