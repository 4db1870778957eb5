"""Makes a `Plate` of what OMERO answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, Field, Image, Layout, Plate, Well, well_name
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.address import Source
from openhcs_jupyter.repository.omero.queries import ChannelRow, FieldRow, ask, ask_objects

_DTYPES = {"float": "float32", "double": "float64", "bit": "uint8"}
_SHOWN = 6
_KNOWN = {"int8", "uint8", "int16", "uint16", "int32", "uint32", "float", "double", "bit"}


class Loaded(NamedTuple):
    """A plate, and what else was told of it."""

    plate: Plate
    fields: list[FieldRow]
    """Where its pixels are."""
    unseen: tuple[str, ...]
    """Fields without an image that the user may see."""


def load_plate(session: Any, source: Source, uri: str, context: dict[str, str]) -> Loaded:
    """Load a plate, in at most five queries whatever its size.

    The images of a dataset are the fields of well A01, by their ids.

    Parameters
    ----------
    session
        The service factory.
    source
        The plate, or the dataset or image that is taken for one.
    uri
        Of the repository.
    context
        The groups in which it is looked for.

    Raises
    ------
    RepositoryError
        If the user sees no such plate, or its images cannot be told apart by well and field.
    """
    query = {"Plate": queries.PLATE, "Dataset": queries.DATASET, "Image": queries.IMAGE}[source.kind]
    found = ask(session, query, context, id=source.id)
    kind = source.kind.lower()
    if not found:
        hint = f"%openhcs plates lists the plates; is the {kind} in a group that you chose?"
        raise RepositoryError(f"There is no {kind} {source.id} that you may see in {uri}.", hint)
    name = str(found[0][1])
    rows, columns = found[0][2:4] if source.kind == "Plate" else (1, 1)
    rows_of = _fields(session, source, context)
    fields = [row for row in rows_of if row.image]
    unseen = tuple(f"{well_name(row.row, row.column)} field {row.position + 1}" for row in rows_of if not row.image)
    if not fields:
        raise RepositoryError(
            f"{source.kind} {source.id} ({name}) has no images that you may see.", "Perhaps its import still goes on."
        )
    for row in fields:
        _check(name, row)
    of_source = ask(session, queries.CHANNELS[source.kind], context, id=source.id)
    channels = _channels(f"{kind} {name}", [ChannelRow(*row) for row in of_source])
    scale = _Scale(session, fields, context)
    wells: dict[int, tuple[int, int, list[Field]]] = {}
    layouts: dict[Layout, Layout] = {}
    for row in sorted(fields, key=lambda row: (row.row, row.column, row.position)):
        layout = scale.layout(row)
        layout = layouts.setdefault(layout, layout)
        image = Image(id=row.image, kind="stack", layout=layout, version=f"{row.pixels}:{row.sha1}")
        field = Field(id=row.sample, number=row.position + 1, images=(image,), position_um=scale.position(row))
        wells.setdefault(row.well, (row.row, row.column, []))[2].append(field)
    plate = Plate(
        id=source.number,
        name=name,
        repository=uri,
        rows=max(rows or 0, *(row.row + 1 for row in fields)),
        columns=max(columns or 0, *(row.column + 1 for row in fields)),
        channels=channels,
        wells=tuple(Well(id=key, row=r, column=c, fields=tuple(of)) for key, (r, c, of) in wells.items()),
    )
    return Loaded(plate, fields, unseen)


def part_of(plate: Plate, place: tuple[int, int], sample: int | None) -> Plate:
    """Return a plate with only the well at a place, or only one of its fields.

    Raises
    ------
    RepositoryError
        If it has no images there.
    """
    well = next((one for one in plate.wells if (one.row, one.column) == place), None)
    if well is None:
        names = ", ".join(one.name for one in plate.wells[:_SHOWN]) + (", ..." if len(plate.wells) > _SHOWN else "")
        raise RepositoryError(
            f"Plate {plate.id} ({plate.name}) has no images in {well_name(*place)} that you may see.",
            f"It has some in {names}.",
        )
    fields = tuple(field for field in well.fields if sample in (None, field.id))
    return msgspec.structs.replace(plate, wells=(msgspec.structs.replace(well, fields=fields),))


def _fields(session: Any, source: Source, context: dict[str, str]) -> list[FieldRow]:
    if source.kind == "Plate":
        return [FieldRow(*row) for row in ask(session, queries.FIELDS, context, id=source.id)]
    rows = ask(session, queries.IMAGES[source.kind], context, id=source.id)
    # An image has no place in a well, and its own id is as good as that of a place.
    return [FieldRow(0, 0, 0, index, row[0], None, None, *row) for index, row in enumerate(rows)]


def _check(plate: str, row: FieldRow) -> None:
    """Refuse an image that no run can read."""
    where = f"{well_name(row.row, row.column)} field {row.position + 1} of {plate} (image {row.image})"
    if not row.pixels:
        raise RepositoryError(f"{where} has no pixels yet.", "Its import still goes on: try again when it is done.")
    if row.pixel_type not in _KNOWN:
        raise RepositoryError(f"{where} has {row.pixel_type} pixels, which no function takes.")


def _channels(plate: str, rows: Sequence[ChannelRow]) -> tuple[Channel, ...]:
    """Name the channels; those without a name, or with one that another has, are numbered."""
    by_index: dict[int, ChannelRow] = {}
    for row in rows:
        other = by_index.setdefault(row.number, row)
        if other.name != row.name:
            raise RepositoryError(
                f"Channel {row.number + 1} of {plate} is {other.name!r} in some images, {row.name!r} in others.",
                "Give the channels of all its images the same names in OMERO.web.",
            )
    names = Counter(row.name for row in by_index.values())
    return tuple(
        Channel(
            name=row.name if row.name and names[row.name] == 1 else f"{row.name or 'Channel'} {index + 1}",
            emission_nm=row.emission,
            excitation_nm=row.excitation,
            color=_color(row),
        )
        for index, row in sorted(by_index.items())
    )


def _color(row: ChannelRow) -> str | None:
    if row.red is None or row.green is None or row.blue is None:
        return None
    return f"{row.red:02X}{row.green:02X}{row.blue:02X}"


class _Scale:
    """Lengths in micrometres: the unit of each number is that of an object which has it."""

    def __init__(self, session: Any, fields: Sequence[FieldRow], context: dict[str, str]) -> None:
        examples = {(row.pixel_size, row.z_step): row.pixels for row in fields}
        pixels = ask_objects(session, queries.UNITS, context, ids=sorted(set(examples.values())))
        self._pixels = {one.id.val: (_um(one.physicalSizeX), _um(one.physicalSizeZ)) for one in pixels}
        self._examples = examples
        placed = next((row for row in fields if row.x), None)
        self._unit = 1.0
        if placed is not None:
            found = ask_objects(session, queries.POSITION, context, id=placed.sample)
            um = _um(found[0].posX) if found else None
            self._unit = um / placed.x if um is not None and placed.x else 1.0

    def layout(self, row: FieldRow) -> Layout:
        pixel_size, z_step = self._pixels.get(self._examples[row.pixel_size, row.z_step], (None, None))
        return Layout(
            size_t=row.size_t,
            size_c=row.size_c,
            size_z=row.size_z,
            size_y=row.size_y,
            size_x=row.size_x,
            dtype=_DTYPES.get(row.pixel_type, row.pixel_type),
            pixel_size_um=pixel_size,
            z_step_um=z_step,
        )

    def position(self, row: FieldRow) -> tuple[float, float] | None:
        if row.x is None or row.y is None:
            return None
        return row.y * self._unit, row.x * self._unit


def _um(length: Any) -> float | None:
    """Return a length of OMERO's in micrometres; None where its unit is no length, such as a pixel."""
    if length is None:
        return None
    from omero.model import LengthI
    from omero.model.enums import UnitsLength

    try:
        return float(LengthI(length, UnitsLength.MICROMETER).getValue())
    except Exception:  # noqa: BLE001 - omero-py raises bare exceptions for units such as PIXEL
        return None
