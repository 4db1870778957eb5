"""Writes a run's results as OME-Zarr 0.4 plates and Parquet tables, whole or not at all, and lists what was written.

A results folder ``<results>/<run id>`` holds::

    <image>.ome.zarr/            one plate for each image result, and for labels that lie over no image
      A/1/0/                     field 1 of well A01; the field's number less one, 0 where the fields were joined
        0/ 1/ ...                the pyramid
        labels/<labels>/0/ ...
    <image>.ome.zarr/            no plate but an image, where there is one for the whole plate
      0/ 1/ ...
      labels/<labels>/0/ ...
    tables/<table>.parquet
    provenance.json, plan.json, ...
    results.json                 what is there
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, ResultSpec, RunRecord, parse_well, well_name
from openhcs_jupyter.repository.base import FieldResults, Place, ResultWriter
from openhcs_jupyter.repository.embedded.gathering import Gathering, Task, replace
from openhcs_jupyter.repository.embedded.layout import (
    INDEX,
    Group,
    file_name,
    group_of,
    path_of,
    row_name,
    scope_of,
    title_of,
    well_path,
)
from openhcs_jupyter.repository.embedded.multiscale import (
    stored_dtype,
    write_bytes,
    write_json,
    write_multiscale,
)
from openhcs_jupyter.repository.embedded.ngff import (
    GROUP,
    Scale,
    image_label,
    multiscales,
    plate_metadata,
    rendering,
    well_metadata,
)
from openhcs_jupyter.repository.embedded.saved import PixelResult, Results, TableResult

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


class OmeZarrWriter(ResultWriter):
    """Writes the results of one run into a folder.

    Parameters
    ----------
    folder
        Where the results will be: ``<results>/<run id>``.
    record
        The run's provenance; tables carry the run's and the plate's id and name.
    """

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self._record = record
        self._gathering = Gathering(folder)

    def begin(self, results: Sequence[ResultSpec], channels: Sequence[Channel], rows: int, columns: int) -> None:
        """Make the folder where the results are gathered.

        Fields that an interrupted run of the same results has gathered stay; others are removed.

        Raises
        ------
        RepositoryError
            If the folder cannot be written.
        """
        with self._gathering.mending():
            self._gathering.begin(Task(results=tuple(results), channels=tuple(channels), rows=rows, columns=columns))

    def write_field(self, field: FieldResults) -> None:
        """Write the images and labels of one place; several may be written by several processes at once.

        Raises
        ------
        RepositoryError
            If a result is unknown or has pixels that cannot be stored, or if the folder is full or cannot be written.
            Nothing of the place is kept then.
        """
        place = _place(field.well, field.field)
        specs = {spec.name: spec for spec in self._gathering.task.results if spec.kind in ("image", "labels")}
        groups = _groups(specs, field.arrays, place)
        path = path_of(place)
        with self._gathering.mending(), self._gathering.writing(place, list(groups)):
            for name, group in groups.items():
                if not group.within:
                    self._write_image(self._gathering.folder / group.plate / path, specs[name], field)
            for image in {group.plate for group in groups.values() if group.within}:
                over = [specs[name] for name, group in groups.items() if group.within and group.plate == image]
                _write_labels(self._gathering.folder / image / path, over, field)

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write one table of the whole run as Parquet.

        Raises
        ------
        RepositoryError
            If a column holds what Parquet cannot hold, or if the folder is full or cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        announced = [spec.name for spec in self._gathering.task.results if spec.kind in ("table", "points")]
        if name not in announced:
            raise RepositoryError(
                f"The run announced no table {name!r}.", f"It announced: {', '.join(announced) or 'none'}."
            )
        try:
            content = pa.Table.from_pandas(table, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise RepositoryError(
                f"Table {name!r} cannot be saved: {error}", "Give every column values of one type."
            ) from error
        record = self._record
        about = {
            "openhcs:run": record.id,
            "openhcs:run_name": record.name,
            "openhcs:table": name,
            "openhcs:plate": str(record.plate_id),
            "openhcs:plate_name": record.plate_name,
        }
        content = content.replace_schema_metadata({**(content.schema.metadata or {}), **about})
        path = self._gathering.folder / "tables" / f"{file_name(name)}.parquet"
        partial = path.with_suffix(".partial")
        with self._gathering.mending():
            path.parent.mkdir(exist_ok=True)
            try:
                pq.write_table(content, partial, compression="zstd")
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def finish(self, fields: Sequence[Place], documents: Mapping[str, bytes]) -> str:
        """Publish the results.

        Fields that are not in `fields` are left out. A field that an earlier `finish` of the same run published and
        that was not written again is taken over from there.

        Parameters
        ----------
        fields
            The place of everything that was written.
        documents
            Files that go with the results, by name.

        Returns
        -------
        str
            The results folder.

        Raises
        ------
        RepositoryError
            If a field in `fields` was not written, or if the folder is full or cannot be written. Earlier results of
            the run stay then.
        """
        gathering, task = self._gathering, self._gathering.task
        places = sorted({_place(*place) for place in fields}, key=_order)
        with gathering.mending():
            gathering.recover()
            written = gathering.take_over(places)
            lost = [title_of(place) for place in places if place not in written]
            if lost:
                raise RepositoryError(
                    f"{len(lost)} images of run {self._record.id} were not written: {', '.join(lost[:8])}.",
                    "Resume the run: it writes them again.",
                )
            gathering.keep_only(set(places))
            pixels = _pixel_results(task, written, places)
            for plate in dict.fromkeys(result.path for result in pixels if result.scope != "plate"):
                self._describe_plate(plate, [result for result in pixels if result.path == plate])
            for name, content in documents.items():
                write_bytes(gathering.folder / name, content)
            index = Results(
                run_id=self._record.id,
                run_name=self._record.name,
                plate_id=self._record.plate_id,
                plate_name=self._record.plate_name,
                saved=datetime.now(UTC).isoformat(timespec="milliseconds"),
                images=tuple(result for result in pixels if result.kind == "image"),
                labels=tuple(result for result in pixels if result.kind == "labels"),
                tables=tuple(self._tables()),
                documents=tuple(sorted(documents)),
                fields=tuple(places),
            )
            replace(gathering.folder / INDEX, msgspec.json.encode(index))
            gathering.publish()
        return str(gathering.published)

    def abort(self) -> None:
        """Remove what was gathered and not published.

        Raises
        ------
        RepositoryError
            If the folder cannot be written.
        """
        with self._gathering.mending():
            self._gathering.abort()

    def _write_image(self, folder: Path, spec: ResultSpec, field: FieldResults) -> None:
        task = self._gathering.task
        array = field.arrays[spec.name]
        title = self._record.plate_name if field.well is None else title_of((field.well, field.field))
        attributes: dict[str, Any] = {"multiscales": multiscales(title, array.shape, Scale.of(field, spec))}
        windows = write_multiscale(folder, array, spec.kind == "labels")
        if spec.kind == "labels":
            attributes["image-label"] = image_label()
        else:
            attributes["omero"] = rendering(title, spec, task.channels, windows, array.shape[2])
        write_json(folder / ".zattrs", attributes)

    def _describe_plate(self, plate: str, results: Sequence[PixelResult]) -> None:
        task = self._gathering.task
        by_well: dict[str, set[int]] = {}
        for result in results:
            for well, field in result.fields:
                assert well is not None
                by_well.setdefault(well, set()).add(field or 1)
        folder = self._gathering.folder / plate
        for row in {row_name(parse_well(well)[0]) for well in by_well}:
            write_bytes(folder / row / ".zgroup", GROUP)
        for well, fields in by_well.items():
            group = folder / well_path(well)
            write_bytes(group / ".zgroup", GROUP)
            write_json(group / ".zattrs", well_metadata(fields))
        write_bytes(folder / ".zgroup", GROUP)
        write_json(folder / ".zattrs", plate_metadata(self._record.plate_name, task.rows, task.columns, by_well))

    def _tables(self) -> Iterator[TableResult]:
        for spec in self._gathering.task.results:
            path = self._gathering.folder / "tables" / f"{file_name(spec.name)}.parquet"
            if spec.kind in ("table", "points") and path.exists():
                import pyarrow.parquet as pq

                schema = pq.read_schema(path)
                yield TableResult(
                    name=spec.name,
                    path=f"tables/{path.name}",
                    rows=pq.read_metadata(path).num_rows,
                    columns=tuple(schema.names),
                )


def _write_labels(image: Path, specs: Sequence[ResultSpec], field: FieldResults) -> None:
    folder = image / "labels"
    folder.mkdir()
    write_bytes(folder / ".zgroup", GROUP)
    for spec in specs:
        group = folder / file_name(spec.name)
        array = field.arrays[spec.name]
        write_multiscale(group, array, labels=True)
        attributes = {
            "multiscales": multiscales(spec.name, array.shape, Scale.of(field, spec)),
            "image-label": image_label("../../"),
        }
        write_json(group / ".zattrs", attributes)
    write_json(folder / ".zattrs", {"labels": [file_name(spec.name) for spec in specs]})


def _place(well: str | None, field: int | None) -> Place:
    return (None, None) if well is None else (well_name(*parse_well(well)), field)


def _groups(known: Mapping[str, ResultSpec], arrays: Mapping[str, NDArray[np.generic]], at: Place) -> dict[str, Group]:
    """Say where each array of a place goes; refuse what cannot go anywhere."""
    place = title_of(at)
    groups = {}
    for name, array in arrays.items():
        if name not in known:
            raise RepositoryError(
                f"The run announced no image or labels {name!r} ({place}).",
                f"It announced: {', '.join(known) or 'none'}.",
            )
        if known[name].scope != scope_of(at):
            raise RepositoryError(f"{name!r} was announced for each {known[name].scope}; this is {place}.")
        if array.ndim != 5 or 0 in array.shape:
            raise RepositoryError(
                f"{name!r} of {place} has shape {array.shape} and cannot be saved.",
                "Images are (T, C, Z, Y, X), with at least one pixel.",
            )
        stored_dtype(array, known[name].kind == "labels", f"{name!r} of {place}")
        group = group_of(known, known[name])
        if group.within and known[name].over not in arrays:
            raise RepositoryError(
                f"Labels {name!r} of {place} lie over {known[name].over!r}, which is not there.",
                "Save the image wherever there are labels over it.",
            )
        groups[name] = group
    return groups


def _pixel_results(task: Task, written: Mapping[Place, Sequence[str]], places: Sequence[Place]) -> list[PixelResult]:
    known = {spec.name: spec for spec in task.results if spec.kind in ("image", "labels")}
    results = []
    for spec in known.values():
        group = group_of(known, spec)
        fields = tuple(place for place in places if spec.name in written[place])
        if fields:
            results.append(
                PixelResult(
                    name=spec.name,
                    kind="labels" if spec.kind == "labels" else "image",
                    scope=spec.scope,
                    path=group.plate,
                    within=group.within,
                    channels=spec.channels,
                    over=spec.over,
                    fields=fields,
                )
            )
    return results


def _order(place: Place) -> tuple[int, int, int]:
    well, field = place
    return (-1, -1, -1) if well is None else (*parse_well(well), field or 0)
