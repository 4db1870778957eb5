"""What is asked of OMERO: a plate in four queries, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

PLATES = "select p.id, p.name, p.details.group.name, p.details.creationEvent.time from Plate p order by p.id"
SCREENS = "select l.child.id, l.parent.name from ScreenPlateLink l"
COUNTS = "select w.plate.id, count(distinct w.id), count(ws.id) from Well w join w.wellSamples ws group by w.plate.id"
PLATE = "select p.id, p.name, p.rows, p.columns, p.details.group.id from Plate p where p.id = :id"
FIELDS = (
    "select w.id, w.row, w.column, index(ws), ws.id, ws.posX.value, ws.posY.value, i.id, i.name, i.series, p.id, "
    "p.sizeX, p.sizeY, p.sizeZ, p.sizeC, p.sizeT, pt.value, p.sha1, p.physicalSizeX.value, p.physicalSizeZ.value, "
    "fs.id, ei.entityType, ei.lsid "
    "from Well w join w.wellSamples ws join ws.image i join i.pixels p join p.pixelsType pt "
    "left outer join i.fileset fs left outer join i.details.externalInfo ei where w.plate.id = :id"
)
CHANNELS = (
    "select distinct index(c), lc.name, lc.emissionWave.value, lc.excitationWave.value, c.red, c.green, c.blue "
    "from WellSample ws join ws.image i join i.pixels p join p.channels c join c.logicalChannel lc "
    "where ws.well.plate.id = :id"
)
# Units are asked of whole objects: in rows they come differently from one version of OMERO to the next.
UNITS = "select p from Pixels p where p.id in (:ids)"
POSITION = "select s from WellSample s where s.id = :id"
FILES = (
    "select fs.id, f.repo, f.path, f.name, f.size from Fileset fs join fs.usedFiles e join e.originalFile f "
    "where fs.id in (:ids)"
)
PLATE_OF = {
    "Well": "select w.plate.id, w.plate.id from Well w where w.id = :id",
    "Image": "select ws.well.plate.id, ws.well.plate.id from WellSample ws where ws.image.id = :id",
}
VERSIONS = "select i.id, p.id, p.sha1 from Pixels p join p.image i where i.id in (:ids)"
PLATE_MARKED = "select p.id from Plate p where p.description = :text"
ANNOTATIONS_MARKED = "select a.id from {kind} a where a.description = :text"
MARKED = "select o.id, o.details.group.id from {kind} o where o.{attribute} = :exact or o.{attribute} like :start"
IMAGES_IN = "select ws.image.id from WellSample ws where ws.well.plate.id = :id"
WELL_AT = "select w.id from Well w where w.plate.id = :id and w.row = :row and w.column = :column"
SCREENS_OF = "select l.parent.id from ScreenPlateLink l where l.child.id = :id"
PLATES_NAMED = "select p.id, p.details.group.name from Plate p where p.name = :name order by p.id"
PLATES_OF_SCREEN = "select l.child.id, l.child.name from ScreenPlateLink l where l.parent.id = :id order by l.child.id"


class FieldRow(NamedTuple):
    """A row of `FIELDS`; lengths are numbers in the unit that OMERO keeps with them."""

    well: int
    row: int
    column: int
    position: int
    """Of the field in its well, from 0."""
    sample: int
    x: float | None
    y: float | None
    image: int
    name: str
    series: int | None
    pixels: int
    size_x: int
    size_y: int
    size_z: int
    size_c: int
    size_t: int
    pixel_type: str
    sha1: str
    pixel_size: float | None
    z_step: float | None
    fileset: int | None
    external_type: str | None
    external_path: str | None


class ChannelRow(NamedTuple):
    """A row of `CHANNELS`."""

    number: int
    """Of the channel, from 0."""
    name: str | None
    emission: float | None
    excitation: float | None
    red: int | None
    green: int | None
    blue: int | None


class FileRow(NamedTuple):
    """A row of `FILES`."""

    fileset: int
    repository: str | None
    path: str
    name: str
    size: int


def ask(session: Any, query: str, context: dict[str, str], **values: Any) -> list[list[Any]]:
    """Ask for rows of plain values.

    Parameters
    ----------
    session
        The service factory.
    query
        HQL.
    context
        Of the call: the groups.
    values
        Of the query's parameters.
    """
    from omero.rtypes import unwrap

    rows = session.getQueryService().projection(query, _parameters(values), context)
    return [[unwrap(value) for value in row] for row in rows]


def ask_objects(session: Any, query: str, context: dict[str, str], **values: Any) -> list[Any]:
    """Ask for objects of the model."""
    found: list[Any] = session.getQueryService().findAllByQuery(query, _parameters(values), context)
    return found


def _parameters(values: dict[str, Any]) -> Any:
    from omero.sys import ParametersI

    parameters = ParametersI()
    for name, value in values.items():
        if isinstance(value, str):
            parameters.addString(name, value)
        elif isinstance(value, Iterable):
            parameters.addIds(list(value)) if name == "ids" else parameters.addLongs(name, list(value))
        else:
            parameters.addLong(name, value)
    return parameters
