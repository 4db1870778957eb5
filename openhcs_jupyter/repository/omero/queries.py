"""What is asked of OMERO: a plate in six queries, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

PLATES = "select p.id, p.name, p.details.group.name, p.details.creationEvent.time from Plate p order by p.id"
SCREENS = "select l.child.id, l.parent.name from ScreenPlateLink l"
COUNTS = "select w.plate.id, count(distinct w.id), count(ws.id) from Well w join w.wellSamples ws group by w.plate.id"
PLATE = "select p.id, p.name, p.rows, p.columns, p.details.group.id from Plate p where p.id = :id"
DATASET = "select d.id, d.name, d.details.group.id from Dataset d where d.id = :id"
IMAGE = "select i.id, i.name, i.details.group.id from Image i where i.id = :id"
_PIXELS = (
    "i.id, p.id, p.sizeX, p.sizeY, p.sizeZ, p.sizeC, p.sizeT, pt.value, p.sha1, "
    "p.physicalSizeX.value, p.physicalSizeZ.value, fs.id, ei.entityType, ei.lsid"
)
_WITH = (
    "left outer join i.pixels p left outer join p.pixelsType pt "
    "left outer join i.fileset fs left outer join i.details.externalInfo ei"
)
FIELDS = (
    f"select w.id, w.row, w.column, index(ws), ws.id, ws.posX.value, ws.posY.value, {_PIXELS} "
    f"from Well w join w.wellSamples ws left outer join ws.image i {_WITH} where w.plate.id = :id"
)
IMAGES = {
    "Dataset": f"select {_PIXELS} from Image i join i.datasetLinks l {_WITH} where l.parent.id = :id order by i.id",
    "Image": f"select {_PIXELS} from Image i {_WITH} where i.id = :id",
}
_CHANNEL = "select distinct index(c), lc.name, lc.emissionWave.value, lc.excitationWave.value, c.red, c.green, c.blue"
_CHANNELS = "join i.pixels p join p.channels c join c.logicalChannel lc"
CHANNELS = {
    "Plate": f"{_CHANNEL} from WellSample ws join ws.image i {_CHANNELS} where ws.well.plate.id = :id",
    "Dataset": f"{_CHANNEL} from Image i join i.datasetLinks l {_CHANNELS} where l.parent.id = :id",
    "Image": f"{_CHANNEL} from Image i {_CHANNELS} where i.id = :id",
}
# Units are asked of whole objects: in rows they come differently from one version of OMERO to the next.
UNITS = "select p from Pixels p where p.id in (:ids)"
POSITION = "select s from WellSample s where s.id = :id"
FILES = (
    "select fs.id, f.repo, f.path, f.name, f.size from Fileset fs join fs.usedFiles e join e.originalFile f "
    "where fs.id in (:ids)"
)
WELL = "select w.plate.id, w.row, w.column from Well w where w.id = :id"
FIELD = "select ws.well.plate.id, ws.well.row, ws.well.column, ws.id from WellSample ws where ws.image.id = :id"
VERSIONS = "select i.id, p.id, p.sha1 from Pixels p join p.image i where i.id in (:ids)"
NAMED = {
    kind: f"select o.id, o.details.group.name from {kind} o where o.name = :name order by o.id"
    for kind in ("Plate", "Dataset", "Image", "Screen")
}
PLATES_OF_SCREEN = "select l.child.id, l.child.name from ScreenPlateLink l where l.parent.id = :id order by l.child.id"
# What a run made, by its marker.
MARKED = "select o.id, o.details.group.id, o.{attribute} from {kind} o where o.{attribute} like :text"
REGISTERED = (
    "select i.description, ei.lsid from Image i left outer join i.details.externalInfo ei "
    "where i.description like :text"
)
CONTAINER_MARKED = "select o.id from {kind} o where o.description = :text"
DOCUMENTS_LEFT = "select f.id from OriginalFile f where f.path = :text"
ROIS_COUNTED = "select count(r.id) from Roi r where r.name like :text"
RUNS_OF = (
    "select a.id, a.description from {kind}AnnotationLink l join l.child a "
    "where l.parent.id = :id and a.ns = :ns order by a.id desc"
)
DESCRIPTION = {
    kind: f"select o.id, o.description from {kind} o where o.id = :id" for kind in ("Plate", "Dataset", "Image")
}
DOCUMENT = "select a.file.id, a.file.size from FileAnnotation a where a.ns = :ns and a.description = :text"
# Where results go.
IMAGES_IN = {
    "Plate": "select ws.image.id from WellSample ws where ws.well.plate.id = :id",
    "Dataset": "select l.child.id from DatasetImageLink l where l.parent.id = :id",
}
WELL_AT = "select w.id from Well w where w.plate.id = :id and w.row = :row and w.column = :column"
PARENTS = {
    "Plate": "select l.parent.id from ScreenPlateLink l where l.child.id = :id",
    "Dataset": "select l.parent.id from ProjectDatasetLink l where l.child.id = :id",
    "Image": "select p.parent.id from DatasetImageLink l join l.parent d join d.projectLinks p where l.child.id = :id",
}


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
    rows = session.getQueryService().projection(query, _parameters(values), context)
    # Not omero.rtypes.unwrap: it is made for whole graphs, and takes longer than the query does.
    return [[None if value is None else value.getValue() for value in row] for row in rows]


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
