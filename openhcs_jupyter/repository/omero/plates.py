"""Makes a `Plate` of what OMERO answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, Field, Image, Layout, Plate, Well, well_name
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.queries import ChannelRow, FieldRow, ask, ask_objects

_DTYPES = {"float": "float32", "double": "float64", "bit": "uint8"}
_KNOWN = {"int8", "uint8", "int16", "uint16", "int32", "uint32", "float", "double", "bit"}


def load_plate(session: Any, number: int, uri: str, context: dict[str, str]) -> tuple[Plate, list[FieldRow]]:
    """Load a plate, in at most five queries whatever its size.

    Parameters
    ----------
    session
        The service factory.
    number
        The plate's id.
    uri
        Of the repository.
    context
        The groups in which it is looked for.

    Returns
    -------
    tuple
        The plate, and the rows that say where its pixels are.

    Raises
    ------
    RepositoryError
        If the user sees no such plate, or its images cannot be told apart by well and field.
    """
    found = ask(session, queries.PLATE, context, id=number)
    if not found:
        raise RepositoryError(f"There is no plate {number} that you may see in {uri}.", "%openhcs plates lists them.")
    _, name, rows, columns, _ = found[0]
    fields = [FieldRow(*row) for row in ask(session, queries.FIELDS, context, id=number)]
    if not fields:
        raise RepositoryError(f"Plate {number} ({name}) has no images.", "Perhaps its import still goes on.")
    for row in fields:
        if row.pixel_type not in _KNOWN:
            where = f"{well_name(row.row, row.column)} field {row.position + 1}"
            raise RepositoryError(f"{where} of plate {name} has {row.pixel_type} pixels, which no function takes.")
    channels = _channels(name, [ChannelRow(*row) for row in ask(session, queries.CHANNELS, context, id=number)])
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
        id=number,
        name=name,
        repository=uri,
        rows=max(rows or 0, *(row.row + 1 for row in fields)),
        columns=max(columns or 0, *(row.column + 1 for row in fields)),
        channels=channels,
        wells=tuple(Well(id=key, row=r, column=c, fields=tuple(of)) for key, (r, c, of) in wells.items()),
    )
    return plate, fields


def _channels(plate: str, rows: Sequence[ChannelRow]) -> tuple[Channel, ...]:
    """Name the channels; those without a name, or with one that another has, are numbered."""
    by_index: dict[int, ChannelRow] = {}
    for row in rows:
        other = by_index.setdefault(row.number, row)
        if other.name != row.name:
            raise RepositoryError(
                f"Channel {row.number + 1} of plate {plate} is {other.name!r} in some images, {row.name!r} in others.",
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
