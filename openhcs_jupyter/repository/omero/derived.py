"""Derived plates, and derived datasets of what is in no plate: made, filled with images, shown where the source is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openhcs_jupyter.model import parse_well
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.address import Source
from openhcs_jupyter.repository.omero.queries import ask

_LINKS = {"Plate": ("ScreenPlateLink", "Screen"), "Dataset": ("ProjectDatasetLink", "Project")}


def container_kind(source: Source) -> str:
    """Say in what the images made from a source are gathered."""
    return "Plate" if source.kind == "Plate" else "Dataset"


def make_container(
    session: Any, kind: str, title: str, marker: str, rows: int, columns: int, context: dict[str, str]
) -> int:
    """Make a derived plate or dataset, or find the one that an interrupted run has made; returns its id."""
    import omero.model
    from omero.rtypes import rint, rstring

    found = ask(session, queries.CONTAINER_MARKED.format(kind=kind), context, text=marker)
    if found:
        return int(found[0][0])
    made = getattr(omero.model, f"{kind}I")()
    made.name, made.description = rstring(title), rstring(marker)
    if kind == "Plate":
        made.rows, made.columns = rint(rows), rint(columns)
        made.columnNamingConvention, made.rowNamingConvention = rstring("number"), rstring("letter")
    return int(session.getUpdateService().saveAndReturnObject(made, context).id.val)


def fill(
    session: Any, kind: str, container: int, images: Sequence[tuple[str, int, int]], context: dict[str, str]
) -> None:
    """Put images into a container in one transaction; those that are there already stay.

    Parameters
    ----------
    session
        The service factory.
    kind
        ``Plate`` or ``Dataset``.
    container
        Its id.
    images
        Well, number of the field, and id of each.
    context
        The group in which it is.
    """
    import omero.model

    there = {image for (image,) in ask(session, queries.IMAGES_IN[kind], context, id=container)}
    missing = [one for one in sorted(images) if one[2] not in there]
    if not missing:
        return
    if kind == "Plate":
        made = _wells(session, container, missing, context)
    else:
        made = []
        for _, _, image in missing:
            link = omero.model.DatasetImageLinkI()
            link.parent, link.child = omero.model.DatasetI(container, False), omero.model.ImageI(image, False)
            made.append(link)
    session.getUpdateService().saveCollection(made, context)


def show(session: Any, kind: str, container: int, title: str, source: Source, context: dict[str, str]) -> None:
    """Give a container its name, and its place in the screens or projects of what it was made from."""
    import omero
    import omero.model
    from omero.rtypes import rstring

    found = session.getQueryService().get(kind, container, context)
    found.name = rstring(title)
    session.getUpdateService().saveObject(found, context)
    link_kind, parent_kind = _LINKS[kind]
    there = {parent for (parent,) in ask(session, queries.PARENTS[kind], context, id=container)}
    wanted = {parent for (parent,) in ask(session, queries.PARENTS[source.kind], context, id=source.id)}
    for parent in sorted(wanted - there):
        link = getattr(omero.model, f"{link_kind}I")()
        link.parent = getattr(omero.model, f"{parent_kind}I")(parent, False)
        link.child = getattr(omero.model, f"{kind}I")(container, False)
        try:
            session.getUpdateService().saveObject(link, context)
        except omero.SecurityViolation:
            continue  # somebody else's: it stands beside it, as OMERO.web shows what is in no screen or project


def _wells(session: Any, plate: int, images: Sequence[tuple[str, int, int]], context: dict[str, str]) -> list[Any]:
    """Make the samples of images, and the wells that are not there yet."""
    import omero.model
    from omero.rtypes import rint

    of_well: dict[str, list[int]] = {}
    for well, _, image in images:
        of_well.setdefault(well, []).append(image)
    made: list[Any] = []
    for name, ids in of_well.items():
        row, column = parse_well(name)
        found = ask(session, queries.WELL_AT, context, id=plate, row=row, column=column)
        well = omero.model.WellI()
        if found:
            well = omero.model.WellI(found[0][0], False)
        else:
            well.plate = omero.model.PlateI(plate, False)
            well.row, well.column = rint(row), rint(column)
            made.append(well)
        for image in ids:
            sample = omero.model.WellSampleI()
            sample.image = omero.model.ImageI(image, False)
            if found:
                sample.well = well
                made.append(sample)
            else:
                well.addWellSample(sample)
    return made
