"""Writes a run's results back to OMERO: derived plates, ROIs, tables and provenance; each found again by its marker.

A marker is the description of everything that a run makes: ``openhcs-jupyter <run id> …``. What is interrupted is
written again under the same marker in place of what is there, so that nothing stands twice. Images belong to no well,
and the derived plate to no screen, before `finish` has written everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, ResultSpec, RunRecord, parse_well
from openhcs_jupyter.repository.base import FieldResults, ResultWriter
from openhcs_jupyter.repository.base import Place as ResultPlace
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.annotations import link_pairs, write_document, write_pairs
from openhcs_jupyter.repository.omero.deleting import delete
from openhcs_jupyter.repository.omero.images import write_image
from openhcs_jupyter.repository.omero.masks import masks_of
from openhcs_jupyter.repository.omero.queries import ask
from openhcs_jupyter.repository.omero.rois import write_rois
from openhcs_jupyter.repository.omero.tables import write_table

if TYPE_CHECKING:
    import pandas as pd

    from openhcs_jupyter.repository.omero.repository import OmeroRepository

_UNFINISHED = "being written"


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    """What `begin` was told and made, kept for the processes that write fields."""

    results: tuple[ResultSpec, ...]
    channels: tuple[Channel, ...]
    rows: int
    columns: int
    group: int
    plates: dict[str, int]
    """Id of the derived plate of each image result of fields or wells."""


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    """What one place has on the server."""

    images: dict[str, int]
    rois: dict[str, dict[int, int]]
    """By name of the labels: the ROI of each label."""


class OmeroWriter(ResultWriter):
    """Writes the results of one run.

    Parameters
    ----------
    repository
        Joined as the user who runs.
    record
        The run's provenance.
    """

    def __init__(self, repository: OmeroRepository, record: RunRecord) -> None:
        self._repository = repository
        self._record = record
        self._folder = repository.folder / "written" / record.id
        self._task: _Task | None = None

    @property
    def marker(self) -> str:
        """What everything that this run makes is known by."""
        return marker_of(self._record.id)

    def begin(self, results: Sequence[ResultSpec], channels: Sequence[Channel], rows: int, columns: int) -> None:
        """Make the derived plates, or find those that an interrupted run has made.

        Raises
        ------
        RepositoryError
            If the user may not write into the plate's group.
        """
        session, plate = self._repository.connection.session, self._record.plate_id
        found = ask(session, queries.PLATE, self._repository.connection.services(), id=plate)
        if not found:
            raise RepositoryError(f"Plate {plate} is gone, so its results have no place.", "Run with --no-save.")
        group = int(found[0][4])
        names = [spec.name for spec in results if spec.kind == "image" and spec.scope != "plate"]
        plates = {name: self._derived_plate(name, rows, columns, group) for name in names}
        task = _Task(
            results=tuple(results), channels=tuple(channels), rows=rows, columns=columns, group=group, plates=plates
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._folder / "task.json", msgspec.json.encode(task))
        self._task = task

    def write_field(self, field: FieldResults) -> None:
        """Write the images of one place into OMERO, and its labels as ROIs on the field they were made from.

        Raises
        ------
        RepositoryError
            If OMERO refuses.
        """
        task = self._known_task()
        context = _context(task.group)
        specs = {spec.name: spec for spec in task.results if spec.kind in ("image", "labels")}
        where = f"{field.well or 'plate'}{f' field {field.field}' if field.field else ''}"
        images: dict[str, int] = {}
        rois: dict[str, dict[int, int]] = {}

        def write(session: Any) -> None:
            for name, pixels in field.arrays.items():
                spec = specs[name]
                if spec.kind == "image":
                    channels = [self._channel(task, channel) for channel in spec.channels]
                    channels += [Channel(name=f"{name} {c + 1}") for c in range(len(channels), pixels.shape[1])]
                    images[name] = write_image(
                        session, f"{self._record.plate_name} [{where}] {name}", f"{self.marker} {name} {where}", pixels,
                        channels[: pixels.shape[1]], (field.pixel_size_um, field.z_step_um), context,
                    )  # fmt: skip
            for name, labels in field.arrays.items():
                if specs[name].kind == "labels":
                    target = self._under(specs[name], field, images)
                    rois[name] = write_rois(
                        session, target, f"{self.marker} {name}", masks_of(np.asarray(labels, np.int64)), context
                    )

        self._repository.connection.call(write)
        written = _Written(images=images, rois=rois)
        _replace(self._mark(field.well, field.field), msgspec.json.encode(written))

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write one table, linked to the plate, with the ids of its wells, images and ROIs."""
        task = self._known_task()
        context = _context(task.group)
        session, marker = self._repository.connection.session, f"{self.marker} {name}"
        self._delete_annotations(session, "FileAnnotation", marker, context)
        ids = self._ids(table)
        write_table(session, f"{self._record.name} {name}", table, ids, self._record.plate_id, marker, context)

    def finish(self, fields: Sequence[ResultPlace], documents: Mapping[str, bytes]) -> str:
        """Put the images into the wells of the derived plates, annotate everything, and show the plates in the screen.

        Returns
        -------
        str
            The source plate's URI in OMERO, with the derived plates' ids.
        """
        task = self._known_task()
        context = _context(task.group)
        connection = self._repository.connection
        session = connection.session
        for name, plate in task.plates.items():
            self._fill_wells(session, name, plate, fields, context)
        self._delete_annotations(session, "MapAnnotation", self.marker, context)
        for name in documents:
            self._delete_annotations(session, "FileAnnotation", f"{self.marker} {name}", context)
        targets = [("Plate", number) for number in (*task.plates.values(), self._record.plate_id)]
        pairs = self._pairs(task, documents)
        annotation = write_pairs(session, pairs, self.marker, *targets[0], context)
        for kind, number in targets[1:]:
            link_pairs(session, annotation, kind, number, context)
        for name, content in documents.items():
            write_document(session, name, content, f"{self.marker} {name}", *targets[0], context)
        for name, plate in task.plates.items():
            self._show(session, name, plate, context)
        made = ", ".join(str(number) for number in task.plates.values())
        return f"{self._repository.uri} plate {made or self._record.plate_id}"

    def abort(self) -> None:
        """Remove what was written of the run."""
        delete_results(self._repository, self._record.id)

    def _derived_plate(self, name: str, rows: int, columns: int, group: int) -> int:
        import omero.model
        from omero.rtypes import rint, rstring

        session, context = self._repository.connection.session, _context(group)
        marker = f"{self.marker} {name}"
        found = ask(session, queries.PLATE_MARKED, context, text=marker)
        if found:
            return int(found[0][0])
        plate = omero.model.PlateI()
        plate.name = rstring(f"{self._title(name)} ({_UNFINISHED})")
        plate.description = rstring(marker)
        plate.rows, plate.columns = rint(rows), rint(columns)
        plate.columnNamingConvention, plate.rowNamingConvention = rstring("number"), rstring("letter")
        try:
            made = session.getUpdateService().saveAndReturnObject(plate, context)
        except omero.SecurityViolation as error:
            raise RepositoryError(
                f"You may not write results into the group of plate {self._record.plate_name}: {error.message}",
                "Run with --no-save, or ask the group's owner.",
            ) from error
        return int(made.id.val)

    def _title(self, name: str) -> str:
        return f"{self._record.plate_name} {self._record.name} {name}"

    def _channel(self, task: _Task, name: str) -> Channel:
        return next((one for one in task.channels if one.name == name), Channel(name=name))

    def _under(self, spec: ResultSpec, field: FieldResults, images: Mapping[str, int]) -> int:
        """Return the image on which labels lie: the field they were made from, else the image they lie over."""
        source = self._repository.image_of(self._record.plate_id, field.well, field.field)
        if source is not None:
            return source
        if spec.over is not None and spec.over in images:
            return images[spec.over]
        raise RepositoryError(
            f"The labels {spec.name!r} of {field.well or 'the plate'} lie over no image that OMERO has.",
            f"Save the image {spec.over!r}, too: save=True.",
        )

    def _fill_wells(
        self, session: Any, name: str, plate: int, fields: Sequence[ResultPlace], context: dict[str, str]
    ) -> None:
        """Make the wells of a derived plate; those that are there already are made anew with all their images."""
        import omero.model
        from omero.rtypes import rint

        of_well: dict[str, list[tuple[int, int]]] = {}
        for well, number in fields:
            if well is not None and (image := self._written(well, number).images.get(name)) is not None:
                of_well.setdefault(well, []).append((number or 1, image))
        filled = {image for (image,) in ask(session, queries.IMAGES_IN, context, id=plate)}
        wells = []
        for well, images in of_well.items():
            row, column = parse_well(well)
            missing = [image for _, image in sorted(images) if image not in filled]
            if not missing:
                continue
            found = ask(session, queries.WELL_AT, context, id=plate, row=row, column=column)
            one = omero.model.WellI()
            if found:
                one = omero.model.WellI(found[0][0], False)
            else:
                one.plate = omero.model.PlateI(plate, False)
                one.row, one.column = rint(row), rint(column)
            for image in missing:
                sample = omero.model.WellSampleI()
                sample.image = omero.model.ImageI(image, False)
                if found:
                    sample.well = one
                    wells.append(sample)
                else:
                    one.addWellSample(sample)
            if not found:
                wells.append(one)
        if wells:
            session.getUpdateService().saveCollection(wells, context)

    def _show(self, session: Any, name: str, plate: int, context: dict[str, str]) -> None:
        """Give a derived plate its name and its place in the source plate's screens."""
        import omero.model
        from omero.rtypes import rstring

        found = session.getQueryService().get("Plate", plate, context)
        found.name = rstring(self._title(name))
        session.getUpdateService().saveObject(found, context)
        there = {screen for (screen,) in ask(session, queries.SCREENS_OF, context, id=plate)}
        for (screen,) in ask(session, queries.SCREENS_OF, context, id=self._record.plate_id):
            if screen in there:
                continue
            link = omero.model.ScreenPlateLinkI()
            link.parent, link.child = omero.model.ScreenI(screen, False), omero.model.PlateI(plate, False)
            try:
                session.getUpdateService().saveObject(link, context)
            except omero.SecurityViolation:
                continue  # somebody else's screen: the plate stands beside it, as OMERO.web shows plates of no screen

    def _pairs(self, task: _Task, documents: Mapping[str, bytes]) -> dict[str, str]:
        record = self._record
        provenance = msgspec.json.decode(documents.get("provenance.json", b"{}"))
        return {
            "run": record.id,
            "name": record.name,
            "source plate": f"{record.plate_id} {record.plate_name}",
            "derived plates": ", ".join(f"{number} {name}" for name, number in task.plates.items()),
            "complete": "yes" if provenance.get("complete", True) else "no",
            "user": record.user,
            "host": record.host,
            "started": record.started,
            **{f"version of {package}": version for package, version in record.versions.items()},
        }

    def _ids(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return for each row of a table the ids of its plate, well, image and ROI, as far as it names them."""
        import pandas as pd

        places = self._repository.places_of(self._record.plate_id)
        wells = {place.well: place.well_id for place in places.values()}
        images = {(place.well, place.field): image for image, place in places.items()}
        ids: dict[str, list[int]] = {}
        count = len(table)
        if "well" not in table:
            return pd.DataFrame({"Plate": [self._record.plate_id] * count})
        ids["Well"] = [wells.get(well, -1) for well in table["well"]]
        if "field" in table:
            rows = list(zip(table["well"], table["field"], strict=True))
            ids["Image"] = [images.get((well, int(field)) if field == field else ("", 0), -1) for well, field in rows]
            labels = self._labels_of(table)
            if labels is not None:
                known = {place: self._written(*place).rois.get(labels, {}) for place in set(rows)}
                found = zip(rows, table["label"], strict=True)
                ids["Roi"] = [known[place].get(int(label), -1) for place, label in found]
        return pd.DataFrame(ids)

    def _labels_of(self, table: pd.DataFrame) -> str | None:
        """Return the labels whose numbers stand in a table; None where that is not certain."""
        names = [spec.name for spec in self._known_task().results if spec.kind == "labels" and spec.scope == "field"]
        return names[0] if len(names) == 1 and "label" in table else None

    def _delete_annotations(self, session: Any, kind: str, marker: str, context: dict[str, str]) -> None:
        found = ask(session, queries.ANNOTATIONS_MARKED.format(kind=kind), context, text=marker)
        delete(session, {kind: [number for (number,) in found]}, context)

    def _known_task(self) -> _Task:
        if self._task is None:
            self._task = msgspec.json.decode((self._folder / "task.json").read_bytes(), type=_Task)
        return self._task

    def _mark(self, well: str | None, field: int | None) -> Path:
        return self._folder / f"{well or 'plate'}_{field or 0}.json"

    def _written(self, well: str | None, field: int | None) -> _Written:
        try:
            return msgspec.json.decode(self._mark(well, field).read_bytes(), type=_Written)
        except FileNotFoundError:
            return _Written(images={}, rois={})


def marker_of(run: str) -> str:
    """Return what everything that a run makes is known by."""
    return f"openhcs-jupyter {run}"


def delete_results(repository: OmeroRepository, run: str) -> dict[str, int]:
    """Delete from OMERO exactly what a run has made.

    Returns
    -------
    dict
        How many objects of each kind were deleted.
    """
    session = repository.connection.session
    everywhere = repository.connection.services()
    marker = marker_of(run)
    deleted: dict[str, int] = {}
    for kind in ("Plate", "Image", "Roi", "FileAnnotation", "MapAnnotation"):
        attribute = "name" if kind == "Roi" else "description"
        query = queries.MARKED.format(kind=kind, attribute=attribute)
        by_group: dict[int, list[int]] = {}
        for number, group in ask(session, query, everywhere, exact=marker, start=f"{marker} %"):
            by_group.setdefault(group, []).append(number)
        for group, ids in by_group.items():
            delete(session, {kind: ids}, _context(group))
            deleted[kind] = deleted.get(kind, 0) + len(ids)
    return deleted


def _context(group: int) -> dict[str, str]:
    """Name the group of a call that writes: OMERO refuses to guess."""
    return {"omero.group": str(group)}


def _replace(path: Path, content: bytes) -> None:
    import os

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
