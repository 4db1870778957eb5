"""Writes a run's results back to OMERO: derived plates, ROIs, tables and provenance; each found again by its marker.

What is interrupted, by a kill or by a server that went away, is written again under the same marker in place of what is
there, so that nothing stands twice. Images belong to no well, and the derived plate to no screen, before `finish` has
written everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import msgspec
import numpy as np

from openhcs_jupyter.config import load_settings
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.files import write_whole
from openhcs_jupyter.model import Channel, ResultSpec, RunRecord
from openhcs_jupyter.repository.base import FieldResults, ResultWriter
from openhcs_jupyter.repository.base import Place as ResultPlace
from openhcs_jupyter.repository.embedded.ngff import Scale
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.address import Source
from openhcs_jupyter.repository.omero.annotations import link_pairs, write_document, write_pairs
from openhcs_jupyter.repository.omero.derived import container_kind, fill, make_container, show
from openhcs_jupyter.repository.omero.images import write_image
from openhcs_jupyter.repository.omero.markers import delete_all, documents_path, marked, marker_of, table_file
from openhcs_jupyter.repository.omero.masks import masks_of
from openhcs_jupyter.repository.omero.outlines import outlines_of
from openhcs_jupyter.repository.omero.pieces import on_recorded
from openhcs_jupyter.repository.omero.places import Place
from openhcs_jupyter.repository.omero.queries import ask
from openhcs_jupyter.repository.omero.rois import write_rois
from openhcs_jupyter.repository.omero.sessions import PATIENCE_S, Connection
from openhcs_jupyter.repository.omero.tables import write_table
from openhcs_jupyter.repository.omero.zarr_results import ZarrFolder, leave_only, probe

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

P = ParamSpec("P")
T = TypeVar("T")
_UNFINISHED = "being written"


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    """What `begin` was told and made, kept for the processes that write fields."""

    results: tuple[ResultSpec, ...]
    channels: tuple[Channel, ...]
    group: int
    containers: dict[str, int]
    """Id of the derived plate, or dataset, of each image result of fields or wells."""
    polygons: bool
    """Labels are outlined, not masked."""
    zarr: str = ""
    """Folder of the OME-Zarr image that the server has shown to serve; there images become OME-Zarr, else are sent."""

    @property
    def context(self) -> dict[str, str]:
        """The group of calls that write: OMERO refuses to guess."""
        return {"omero.group": str(self.group)}


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    """What one place has on the server."""

    images: dict[str, int]
    rois: dict[str, dict[int, int]]
    """By name of the labels: the ROI of each label."""
    zarr: tuple[str, ...] = ()
    """Folders of those images that are registered as OME-Zarr."""


class Home(Protocol):
    """What the writer needs of the repository that it writes into."""

    uri: str

    @property
    def connection(self) -> Connection:
        """The session, opened when it is first needed."""

    @property
    def folder(self) -> Path:
        """Folder of this user on this machine."""

    def delete_results(self, run: str) -> str:
        """Delete what a run has made."""

    def places_of(self, plate: int) -> dict[int, Place]:
        """Return where the images of a plate are, by image id."""

    def image_of(self, plate: int, well: str | None, field: int | None) -> int | None:
        """Return the id of the image of a field."""


class OmeroWriter(ResultWriter):
    """Writes the results of one run.

    Parameters
    ----------
    repository
        Joined as the user who runs.
    record
        The run's provenance.
    """

    def __init__(self, repository: Home, record: RunRecord) -> None:
        self._repository = repository
        self._record = record
        self._source = Source.of(record.plate_id)
        self._kind = container_kind(self._source)
        self._folder = repository.folder / "written" / record.id
        self._known: _Task | None = None
        self._told: tuple[str, ...] = ()

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
        group = self._do(self._writable)
        context = {"omero.group": str(group)}
        containers = {
            spec.name: self._do(
                make_container, self._kind, f"{self._title(spec.name)} ({_UNFINISHED})", f"{self.marker} {spec.name}",
                rows, columns, context,
            )
            for spec in results
            if spec.kind == "image" and spec.scope != "plate"
        }  # fmt: skip
        settings = load_settings()
        zarr = ""
        if settings.omero_zarr_results and any(spec.kind == "image" for spec in results):
            zarr, told = probe(self._repository.connection, settings.omero_zarr_results, self._record.id, context)
            self._told = (told,)
        task = _Task(
            results=tuple(results), channels=tuple(channels), group=group, containers=containers,
            polygons=settings.omero_labels == "polygons", zarr=zarr,
        )  # fmt: skip
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / "task.json", msgspec.json.encode(task))
        self._known = task

    @property
    def told(self) -> tuple[str, ...]:
        """Whether images are registered as OME-Zarr, and why not, where that was asked for."""
        return self._told

    def write_field(self, field: FieldResults) -> None:
        """Write the images of one place into OMERO, and its labels as ROIs on the field they were made from.

        Raises
        ------
        RepositoryError
            If OMERO refuses.
        """
        specs = {spec.name: spec for spec in self._task.results if spec.kind in ("image", "labels")}

        def write(session: Any) -> _Written:
            made = {
                name: self._write_image(session, specs[name], field, pixels)
                for name, pixels in field.arrays.items()
                if specs[name].kind == "image"
            }
            images = {name: image for name, (image, _) in made.items()}
            pieces = outlines_of if self._task.polygons else masks_of
            rois = {}
            for name, labels in field.arrays.items():
                if specs[name].kind == "labels":
                    image, lying = self._under(specs[name], field, images, np.asarray(labels, np.int64))
                    rois[name] = write_rois(session, image, f"{self.marker} {name}", pieces(lying), self._task.context)
            zarr = tuple(str(folder) for _, folder in made.values() if folder is not None)
            return _Written(images=images, rois=rois, zarr=zarr)

        write_whole(self._mark(field.well, field.field), msgspec.json.encode(self._do(write)))

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write one table, linked to the plate, with the ids of its wells, images and ROIs."""
        task, run = self._task, self._record.id
        ids = self._ids(table)
        title = f"{self._record.name} {name}"

        def write(session: Any) -> None:
            self._remove(session, "FileAnnotation", name)
            self._remove(session, "OriginalFile", title)  # of a table whose writing was interrupted
            write_table(
                session, lambda part: table_file(title, part, run), table, ids, self._source,
                f"{self.marker} {name}", task.context,
            )  # fmt: skip

        self._do(write)

    def finish(self, fields: Sequence[ResultPlace], documents: Mapping[str, bytes]) -> str:
        """Put the images into the wells of the derived plates, annotate everything, and show the plates in the screen.

        Returns
        -------
        str
            The source's URI in OMERO, with the ids of what was derived from it.
        """
        task = self._task
        context = task.context
        written = {place: self._written(*place) for place in fields}
        self._do(self._sweep, written)
        if root := load_settings().omero_zarr_results:
            ZarrFolder.of_run(root, self._record.id).sweep({one for place in written.values() for one in place.zarr})
        for name, container in task.containers.items():
            images = [
                (well, field or 1, place.images[name])
                for (well, field), place in written.items()
                if well is not None and name in place.images
            ]
            self._do(fill, self._kind, container, images, context)
        self._do(self._annotate, documents)
        for name, container in task.containers.items():
            self._do(show, self._kind, container, self._title(name), self._source, context)
        made = ", ".join(map(str, task.containers.values()))
        kind = self._kind.lower() if made else self._source.kind.lower()
        return f"{self._repository.uri} {kind} {made or self._source.id}"

    def abort(self) -> None:
        """Remove what was written of the run."""
        self._repository.delete_results(self._record.id)

    def _do(self, work: Callable[Concatenate[Any, P], T], *values: P.args, **options: P.kwargs) -> T:
        """Do something that may be done twice; a server that is away is waited for."""
        return self._repository.connection.call(lambda session: work(session, *values, **options), PATIENCE_S)

    @property
    def _task(self) -> _Task:
        if self._known is None:
            self._known = msgspec.json.decode((self._folder / "task.json").read_bytes(), type=_Task)
        return self._known

    def _writable(self, session: Any) -> int:
        """Return the group of the run's source; refuse one to which the user may not add results."""
        everywhere = self._repository.connection.everywhere
        found = session.getQueryService().find(self._source.kind, self._source.id, everywhere)
        what = f"{self._source.kind} {self._source.id} ({self._record.plate_name})"
        if found is None:
            raise RepositoryError(f"{what} is gone, so its results have no place.", "Run with --no-save.")
        if not found.details.permissions.canAnnotate():
            raise RepositoryError(
                f"You may read {what}, but its group does not let you add results to it.",
                "Run with --no-save; or ask its owner, or the group's, to let members annotate.",
            )
        return int(found.details.group.id.val)

    def _title(self, name: str) -> str:
        return f"{self._record.plate_name} {self._record.name} {name}"

    def _write_image(self, session: Any, spec: ResultSpec, field: FieldResults, pixels: Any) -> tuple[int, Path | None]:
        """Write an image; returns its id, and the folder of its OME-Zarr if it is registered as such."""
        where = f"{field.well or 'plate'}{f' field {field.field}' if field.field else ''}"
        known = {channel.name: channel for channel in self._task.channels}
        channels = [known.get(name, Channel(name=name)) for name in spec.channels]
        channels += [Channel(name=f"{spec.name} {c + 1}") for c in range(len(channels), pixels.shape[1])]
        name, zarr = f"{self._record.plate_name} [{where}] {spec.name}", None
        scale = Scale.of(field, spec)
        if self._task.zarr:
            zarr = ZarrFolder.of_probe(self._task.zarr).write(
                spec, self._mark(field.well, field.field).stem, name, pixels, self._task.channels, scale
            )
        image = write_image(
            session, name, f"{self.marker} {spec.name} {where}", pixels,
            channels[: pixels.shape[1]], (scale.pixel_um, scale.z_um), self._task.context, zarr,
        )  # fmt: skip
        if zarr is not None:
            leave_only(zarr)
        return image, zarr

    def _under(
        self, spec: ResultSpec, field: FieldResults, images: Mapping[str, int], labels: NDArray[np.int64]
    ) -> tuple[int, NDArray[np.int64]]:
        """Return the image on which labels lie, with its pixels: the field they were made from, else their image."""
        source = self._repository.image_of(self._record.plate_id, field.well, field.field)
        if source is not None and (lying := on_recorded(labels, spec.grid)) is not None:
            return source, lying
        if spec.over is not None and spec.over in images:
            return images[spec.over], labels
        raise RepositoryError(
            f"The labels {spec.name!r} of {field.well or 'the plate'} lie over no image that OMERO has.",
            f"Save the image {spec.over!r}, too: save=True.",
        )

    def _sweep(self, session: Any, written: Mapping[ResultPlace, _Written]) -> None:
        """Delete what belongs to no result: of failed units, of calls that were done though their answer was lost."""
        run, context = self._record.id, self._task.context
        images = {image for place in written.values() for image in place.images.values()}
        there = marked(session, "Image", run, context)
        delete_all(session, "Image", [image for image in there if image not in images], context)
        rois = {roi for place in written.values() for labels in place.rois.values() for roi in labels.values()}
        counted = ask(session, queries.ROIS_COUNTED, context, text=f"{self.marker} %")[0][0]
        if counted != len(rois):
            there = marked(session, "Roi", run, context)
            delete_all(session, "Roi", [roi for roi in there if roi not in rois], context)

    def _annotate(self, session: Any, documents: Mapping[str, bytes]) -> None:
        """Write the provenance anew."""
        task = self._task
        context = task.context
        for name in documents:
            self._remove(session, "FileAnnotation", name)
        self._remove(session, "MapAnnotation", "")
        # Of a process that was killed before it had annotated anything with them.
        left = ask(session, queries.DOCUMENTS_LEFT, context, text=documents_path(self._record.id))
        delete_all(session, "OriginalFile", [row[0] for row in left], context)
        targets = [*((self._kind, number) for number in task.containers.values()), (self._source.kind, self._source.id)]
        pairs = self._pairs(task, documents)
        annotation = write_pairs(session, pairs, self.marker, *targets[0], context)
        for kind, number in targets[1:]:
            link_pairs(session, annotation, kind, number, context)
        for name, content in documents.items():
            path = documents_path(self._record.id)
            write_document(session, path, name, content, f"{self.marker} {name}", *targets[0], context)

    def _remove(self, session: Any, kind: str, what: str) -> None:
        context = self._task.context
        delete_all(session, kind, [*marked(session, kind, self._record.id, context, what)], context)

    def _pairs(self, task: _Task, documents: Mapping[str, bytes]) -> dict[str, str]:
        record = self._record
        provenance = msgspec.json.decode(documents.get("provenance.json", b"{}"))
        made = ", ".join(f"{number} {name}" for name, number in task.containers.items())
        return {
            "run": record.id,
            "name": record.name,
            f"source {self._source.kind.lower()}": f"{self._source.id} {record.plate_name}",
            **({f"derived {self._kind.lower()}s": made} if made else {}),
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
        images = {(place.well, place.field): image for image, place in places.items()}
        in_plate = self._source.kind == "Plate"
        ids: dict[str, list[int]] = {}
        if "well" not in table:
            return pd.DataFrame({"Plate": [self._source.id] * len(table)} if in_plate else {}, index=table.index)
        if in_plate:
            wells = {place.well: place.well_id for place in places.values()}
            ids["Well"] = [wells.get(well, -1) for well in table["well"]]
        if "field" in table:
            rows = [(well, _whole(field)) for well, field in zip(table["well"], table["field"], strict=True)]
            ids["Image"] = [images.get((well, field), -1) if field is not None else -1 for well, field in rows]
            labels = self._labels_of(table)
            if labels is not None:
                known = {place: self._written(*place).rois.get(labels, {}) for place in set(rows)}
                found = zip(rows, table["label"], strict=True)
                ids["Roi"] = [known[place].get(_whole(label) or 0, -1) for place, label in found]
        return pd.DataFrame(ids, index=table.index)

    def _labels_of(self, table: pd.DataFrame) -> str | None:
        """Return the labels whose numbers stand in a table; None where that is not certain."""
        names = [spec.name for spec in self._task.results if spec.kind == "labels" and spec.scope == "field"]
        return names[0] if len(names) == 1 and "label" in table else None

    def _mark(self, well: str | None, field: int | None) -> Path:
        return self._folder / f"{well or 'plate'}_{field or 0}.json"

    def _written(self, well: str | None, field: int | None) -> _Written:
        try:
            return msgspec.json.decode(self._mark(well, field).read_bytes(), type=_Written)
        except FileNotFoundError:
            return _Written(images={}, rois={})


def _whole(value: Any) -> int | None:
    """Return a whole number that stands in a table; None where there is none, or something else."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == value else None
