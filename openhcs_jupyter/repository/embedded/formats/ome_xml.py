"""What OME-XML says of plates, images and their planes, as plain values; any version of the schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from xml.etree.ElementTree import Element

import msgspec

from openhcs_jupyter.model import Channel
from openhcs_jupyter.repository.embedded.formats.metadata import (
    channel_marks,
    micrometres,
    moment,
    positive,
    real,
    seconds,
    t_step,
    told_apart,
    whole,
)
from openhcs_jupyter.repository.embedded.formats.xml_files import attributes, elements, local

_MOST_PLANES = 1_000_000
_TYPES = {"float": "float32", "double": "float64"}


class OmePlane(msgspec.Struct, frozen=True, array_like=True):
    """Where a plane lies."""

    t: int
    c: int
    z: int
    page: int
    """Of its file."""
    file: str | None
    """Beside the document; None: the document's own."""


class OmeImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image."""

    size_y: int
    size_x: int
    dtype: str
    channels: tuple[Channel, ...]
    planes: tuple[OmePlane, ...]
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    t_step_s: float | None = None
    position_um: tuple[float, float] | None = None
    acquired: datetime | None = None
    fault: str | None = None
    """Why it cannot be used."""


class OmeField(msgspec.Struct, frozen=True, kw_only=True):
    """One WellSample."""

    row: int
    column: int
    number: int
    """Within its well, from 1."""
    image: str
    """Id."""
    position_um: tuple[float, float] | None = None
    acquired: datetime | None = None


class OmePlate(msgspec.Struct, frozen=True, kw_only=True):
    """One plate."""

    id: str
    name: str
    rows: int | None
    columns: int | None
    fields: tuple[OmeField, ...]


class OmeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What one document says."""

    plates: tuple[OmePlate, ...]
    images: dict[str, OmeImage]
    """By id, in their order."""
    companion: str | None = None
    """File that says it all instead of this document."""


def has_plate(content: bytes) -> bool:
    """Tell whether a document seems to describe a plate, or leaves that to a companion file."""
    return any(mark in content for mark in (b"<Plate", b":Plate", b"<BinaryOnly", b":BinaryOnly"))


def read_ome(path: Path, content: bytes | None = None) -> OmeDocument:
    """Read a document: a file, or `content` that stands in the file `path`.

    Raises
    ------
    RepositoryError
        If it is no XML or declares a document type.
    """
    plates: list[OmePlate] = []
    images: dict[str, OmeImage] = {}
    companion = None
    for element in elements(path, "Image", "Plate", "BinaryOnly", content=content):
        kind = local(element.tag)
        if kind == "BinaryOnly":
            companion = attributes(element).get("MetadataFile")
        elif kind == "Plate":
            plates.append(_plate(element))
        elif (pixels := _child(element, "Pixels")) is not None:
            values = attributes(element)
            images[values.get("ID", f"Image:{len(images)}")] = _image(element, pixels)
    return OmeDocument(plates=tuple(plates), images=images, companion=companion)


def _children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if local(child.tag) == name)


def _child(element: Element, name: str) -> Element | None:
    return next(_children(element, name), None)


def _plate(element: Element) -> OmePlate:
    values = attributes(element)
    fields: list[OmeField] = []
    for well in _children(element, "Well"):
        place = attributes(well)
        row, column = whole(place.get("Row")), whole(place.get("Column"))
        if row is None or column is None:
            continue
        samples = [(attributes(sample), sample) for sample in _children(well, "WellSample")]
        samples.sort(key=lambda sample: whole(sample[0].get("Index")) or 0)
        for number, (sample, node) in enumerate(samples, 1):
            image = _child(node, "ImageRef")
            if image is not None:
                fields.append(
                    OmeField(
                        row=row,
                        column=column,
                        number=number,
                        image=attributes(image).get("ID", ""),
                        position_um=_position(sample),
                        acquired=moment(sample.get("Timepoint")),
                    )
                )
    return OmePlate(
        id=values.get("ID", ""),
        name=values.get("Name", ""),
        rows=whole(values.get("Rows")),
        columns=whole(values.get("Columns")),
        fields=tuple(fields),
    )


def _image(element: Element, pixels: Element) -> OmeImage:
    values = attributes(pixels)
    sizes = {axis: whole(values.get(f"Size{axis}")) or 0 for axis in "TCZYX"}
    told = [attributes(child) for child in _children(pixels, "Plane")]
    date = _child(element, "AcquisitionDate")
    start = moment(date.text if date is not None else None)
    channels, fault = _channels(pixels, sizes["C"])
    planes: tuple[OmePlane, ...] = ()
    if min(sizes.values()) < 1 or sizes["T"] * sizes["C"] * sizes["Z"] > _MOST_PLANES:
        fault = f"has the sizes {', '.join(f'{axis} {size}' for axis, size in sizes.items())}"
    elif fault is None:
        planes = tuple(_planes(pixels, sizes, values.get("DimensionOrder", "XYZCT")))
        fault = None if planes else "does not say where its planes lie: it has no TiffData"
    return OmeImage(
        size_y=sizes["Y"],
        size_x=sizes["X"],
        dtype=_TYPES.get(values.get("Type", ""), values.get("Type", "")),
        channels=channels,
        planes=planes,
        pixel_size_um=micrometres(positive(values.get("PhysicalSizeX")), values.get("PhysicalSizeXUnit")),
        z_step_um=micrometres(positive(values.get("PhysicalSizeZ")), values.get("PhysicalSizeZUnit")),
        t_step_s=seconds(positive(values.get("TimeIncrement")), values.get("TimeIncrementUnit")) or _t_step(told),
        position_um=next((position for plane in told if (position := _position(plane)) is not None), None),
        acquired=start,
        fault=fault,
    )


def _t_step(planes: list[dict[str, str]]) -> float | None:
    """Return the median time from one time point to the next, as the planes tell since when they count."""
    zero = datetime(2000, 1, 1)  # noqa: DTZ001 - only differences are taken
    return t_step(
        (
            (plane.get("TheC"), plane.get("TheZ")),
            whole(plane.get("TheT")) or 0,
            zero + timedelta(seconds=since)
            if (since := seconds(real(plane.get("DeltaT")), plane.get("DeltaTUnit"))) is not None and abs(since) < 1e9
            else None,
        )
        for plane in planes
    )


def _position(values: Mapping[str, str]) -> tuple[float, float] | None:
    """Read a stage position; one in units of the stage says nothing."""
    y = micrometres(real(values.get("PositionY")), values.get("PositionYUnit"))
    x = micrometres(real(values.get("PositionX")), values.get("PositionXUnit"))
    return None if y is None or x is None else (y, x)


def _channels(pixels: Element, size_c: int) -> tuple[tuple[Channel, ...], str | None]:
    told = [attributes(child) for child in _children(pixels, "Channel")]
    samples = max((whole(one.get("SamplesPerPixel")) or 1 for one in told), default=1)
    if samples > 1:
        return (), f"is a colour image, of {samples} samples a pixel; planes must be grey-scale"
    if not 0 < size_c <= _MOST_PLANES:
        return (), None
    told = [*told, *[{}] * (size_c - len(told))][:size_c]
    names, _ = told_apart([one.get("Name", "") for one in told], channel_marks(size_c), "")
    return tuple(
        Channel(
            name=name,
            emission_nm=_nanometres(one, "EmissionWavelength"),
            excitation_nm=_nanometres(one, "ExcitationWavelength"),
            color=_color(one.get("Color")),
        )
        for name, one in zip(names, told, strict=True)
    ), None


def _nanometres(values: Mapping[str, str], key: str) -> float | None:
    length = micrometres(positive(values.get(key)), values.get(f"{key}Unit", "nm"))
    return round(length * 1000, 3) if length is not None else None


def _color(text: str | None) -> str | None:
    """Read a colour: red, green, blue and opacity in one signed number; -1, which is white, is what all have."""
    value = whole(text)
    return f"{value >> 8 & 0xFFFFFF:06X}" if value is not None and value != -1 else None


def _planes(pixels: Element, sizes: Mapping[str, int], order: str) -> Iterator[OmePlane]:
    """Say where each plane lies, as the TiffData elements count them through."""
    axes = [axis for axis in order.upper() if axis in "ZCT"]
    axes += [axis for axis in "ZCT" if axis not in axes]
    every = sizes["T"] * sizes["C"] * sizes["Z"]
    seen: set[tuple[int, int, int]] = set()
    for element in _children(pixels, "TiffData"):
        values = attributes(element)
        named = _child(element, "UUID")
        file = attributes(named).get("FileName") if named is not None else None
        page = whole(values.get("IFD")) or 0
        count = whole(values.get("PlaneCount"))
        if count is None:
            count = 1 if "IFD" in values else every
        position = 0
        for axis in reversed(axes):
            position = position * sizes[axis] + (whole(values.get(f"First{axis}")) or 0)
        for number in range(max(0, position), min(position + count, every)):
            rest, at = number, {}
            for axis in axes:
                rest, at[axis] = divmod(rest, sizes[axis])
            place = (at["T"], at["C"], at["Z"])
            if place not in seen:
                seen.add(place)
                yield OmePlane(*place, page + number - position, file)
