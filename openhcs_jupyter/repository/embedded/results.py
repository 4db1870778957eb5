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

Results are gathered in ``.<run id>.partial`` beside it and published by renaming. Results of the same run that are
there already step aside to ``.<run id>.replaced`` first, and are removed last: whoever is stopped in between leaves
the earlier results whole under that name, where `open_results` and the next call find them. All this holds when
processes are killed; a machine that loses power may lose what its file system had not yet written.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, ResultSpec, RunRecord, parse_well, well_name
from openhcs_jupyter.repository.base import FieldResults, Place, ResultWriter
from openhcs_jupyter.repository.embedded.layout import (
    INDEX,
    Group,
    beside,
    file_name,
    folders,
    group_of,
    path_of,
    plates_of,
    row_name,
    scope_of,
    title_of,
    well_path,
)
from openhcs_jupyter.repository.embedded.multiscale import (
    remove,
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
from openhcs_jupyter.repository.embedded.saved import PixelResult, Results, TableResult, open_results

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_TASK = ".task.json"
_DONE = ".fields"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CLOSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    """What `begin` was told, kept for the processes that write fields."""

    results: tuple[ResultSpec, ...]
    channels: tuple[Channel, ...]
    rows: int
    columns: int


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
        self._folder = folder
        self._record = record
        self._partial = beside(folder, "partial")
        self._replaced = beside(folder, "replaced")
        self._task: _Task | None = None

    @staticmethod
    def delete(folder: Path) -> None:
        """Delete results that were published, and what was gathered of them."""
        if folder.exists():
            away = beside(folder, "replaced")
            remove(away)
            folder.rename(away)  # gone in one step, so that half of it is never taken for the whole
            (away / INDEX).unlink(missing_ok=True)
        for place in ("replaced", "partial"):
            remove(beside(folder, place))

    def begin(self, results: Sequence[ResultSpec], channels: Sequence[Channel], rows: int, columns: int) -> None:
        """Make the folder where the results are gathered.

        Fields that an interrupted run of the same results has gathered stay; others are removed.

        Raises
        ------
        RepositoryError
            If the folder cannot be written.
        """
        task = _Task(results=tuple(results), channels=tuple(channels), rows=rows, columns=columns)
        with self._mending():
            self._recover()
            path = self._partial / _TASK
            if not path.exists() or path.read_bytes() != msgspec.json.encode(task):
                remove(self._partial)
            (self._partial / _DONE).mkdir(parents=True, exist_ok=True)
            _replace(path, msgspec.json.encode(task))
            (self._partial / INDEX).unlink(missing_ok=True)
        self._task = task

    def write_field(self, field: FieldResults) -> None:
        """Write the images and labels of one place; several may be written by several processes at once.

        Raises
        ------
        RepositoryError
            If a result is unknown or has pixels that cannot be stored, or if the folder is full or cannot be written.
            Nothing of the place is kept then.
        """
        task = self._known_task()
        place = _place(field.well, field.field)
        groups = _groups(task.results, field.arrays, place)
        path = path_of(place)
        mark = self._mark(place)
        with self._mending():
            try:
                self._clear(task, place)
                for name, group in groups.items():
                    if not group.within:
                        self._write_image(task, self._partial / group.plate / path, name, field)
                for image in {group.plate for group in groups.values() if group.within}:
                    over = [name for name, group in groups.items() if group.within and group.plate == image]
                    self._write_labels(self._partial / image / path, over, field)
                # The mark is the place's commit: a place without it is written again, or found missing by `finish`.
                _replace(mark, msgspec.json.encode(sorted(groups)))
            except BaseException:
                # The error that led here is the one to report; without its mark the place is not taken for whole.
                for plate in plates_of(task.results, scope_of(place)):
                    shutil.rmtree(self._partial / plate / path, ignore_errors=True)
                raise

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write one table of the whole run as Parquet.

        Raises
        ------
        RepositoryError
            If a column holds what Parquet cannot hold, or if the folder is full or cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._known_task()
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
        path = self._partial / "tables" / f"{file_name(name)}.parquet"
        partial = path.with_suffix(".partial")
        with self._mending():
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
        task = self._known_task()
        places = sorted({_place(*place) for place in fields}, key=_order)
        with self._mending():
            self._recover()
            written = self._take_over(task, places)
            lost = [title_of(place) for place in places if place not in written]
            if lost:
                raise RepositoryError(
                    f"{len(lost)} images of run {self._record.id} were not written: {', '.join(lost[:8])}.",
                    "Resume the run: it writes them again.",
                )
            self._drop(task, set(places))
            pixels = _pixel_results(task, written, places)
            for plate in dict.fromkeys(result.path for result in pixels if result.scope != "plate"):
                self._describe_plate(task, plate, [result for result in pixels if result.path == plate])
            for name, content in documents.items():
                write_bytes(self._partial / name, content)
            index = Results(
                run_id=self._record.id,
                run_name=self._record.name,
                plate_id=self._record.plate_id,
                plate_name=self._record.plate_name,
                saved=datetime.now(UTC).isoformat(timespec="milliseconds"),
                images=tuple(result for result in pixels if result.kind == "image"),
                labels=tuple(result for result in pixels if result.kind == "labels"),
                tables=tuple(self._tables(task)),
                documents=tuple(sorted(documents)),
                fields=tuple(places),
            )
            _replace(self._partial / INDEX, msgspec.json.encode(index))
            self._publish()
        return str(self._folder)

    def abort(self) -> None:
        """Remove what was gathered and not published.

        Raises
        ------
        RepositoryError
            If the folder cannot be written.
        """
        with self._mending():
            self._recover()
            remove(self._partial)

    def _known_task(self) -> _Task:
        if self._task is None:
            try:
                self._task = msgspec.json.decode((self._partial / _TASK).read_bytes(), type=_Task)
            except FileNotFoundError:
                raise RepositoryError(
                    f"Results of run {self._record.id} are not being gathered in {self._partial}.",
                    "Resume the run: it begins the results again.",
                ) from None
        return self._task

    def _mark(self, place: Place) -> Path:
        well, field = place
        return self._partial / _DONE / ("plate" if well is None else well if field is None else f"{well}_{field}")

    def _clear(self, task: _Task, place: Place) -> None:
        self._mark(place).unlink(missing_ok=True)
        for plate in plates_of(task.results, scope_of(place)):
            remove(self._partial / plate / path_of(place))

    def _write_image(self, task: _Task, folder: Path, name: str, field: FieldResults) -> None:
        spec = next(spec for spec in task.results if spec.name == name)
        array = field.arrays[name]
        title = self._record.plate_name if field.well is None else title_of((field.well, field.field))
        attributes: dict[str, Any] = {"multiscales": multiscales(title, array.shape, _scale(field))}
        windows = write_multiscale(folder, array, spec.kind == "labels")
        if spec.kind == "labels":
            attributes["image-label"] = image_label()
        else:
            attributes["omero"] = rendering(title, spec, task.channels, windows, array.shape[2])
        write_json(folder / ".zattrs", attributes)

    def _write_labels(self, image: Path, names: list[str], field: FieldResults) -> None:
        folder = image / "labels"
        folder.mkdir()
        write_bytes(folder / ".zgroup", GROUP)
        for name in names:
            group = folder / file_name(name)
            array = field.arrays[name]
            write_multiscale(group, array, labels=True)
            attributes = {
                "multiscales": multiscales(name, array.shape, _scale(field)),
                "image-label": image_label("../../"),
            }
            write_json(group / ".zattrs", attributes)
        write_json(folder / ".zattrs", {"labels": [file_name(name) for name in names]})

    def _take_over(self, task: _Task, places: Sequence[Place]) -> dict[Place, list[str]]:
        """Read which results each place has; link those that only the published results have."""
        written = {}
        published: Results | None = None
        for place in places:
            mark = self._mark(place)
            if not mark.exists():
                published = published or self._published()
                if published is None or not self._link(task, published, place):
                    continue
            written[place] = msgspec.json.decode(mark.read_bytes(), type=list[str])
        return written

    def _published(self) -> Results | None:
        try:
            return open_results(self._folder)
        except RepositoryError:
            return None

    def _link(self, task: _Task, published: Results, place: Place) -> bool:
        had = [result for result in (*published.images, *published.labels) if place in result.fields]
        if place not in published.fields or not {result.name for result in had} <= {spec.name for spec in task.results}:
            return False
        path = path_of(place)
        self._clear(task, place)
        for plate in {result.path for result in had}:
            target = self._partial / plate / path
            target.parent.mkdir(parents=True, exist_ok=True)
            # What is linked is never written to: a place that is written again is removed first.
            shutil.copytree(Path(published.folder, plate, path), target, copy_function=_link_or_copy)
        _replace(self._mark(place), msgspec.json.encode(sorted(result.name for result in had)))
        return True

    def _drop(self, task: _Task, places: set[Place]) -> None:
        """Remove the images and labels that are not to be published, finished or not."""
        if (None, None) not in places:
            for plate in plates_of(task.results, "plate"):
                remove(self._partial / plate)
        self._drop_fields(plates_of(task.results, "field"), {place for place in places if scope_of(place) == "field"})
        self._drop_fields(plates_of(task.results, "well"), {place for place in places if scope_of(place) == "well"})

    def _drop_fields(self, plates: Sequence[str], places: set[Place]) -> None:
        kept = {path_of(place) for place in places}
        wells = {path.rpartition("/")[0] for path in kept}
        for plate in plates:
            folder = self._partial / plate
            found = [f"{row}/{column}" for row in folders(folder) for column in folders(folder / row)]
            for well in found:
                if well not in wells:
                    remove(folder / well)
                    continue
                for field in folders(folder / well):
                    if f"{well}/{field}" not in kept:
                        remove(folder / well / field)

    def _describe_plate(self, task: _Task, plate: str, results: Sequence[PixelResult]) -> None:
        by_well: dict[str, set[int]] = {}
        for result in results:
            for well, field in result.fields:
                assert well is not None
                by_well.setdefault(well, set()).add(field or 1)
        folder = self._partial / plate
        for row in {row_name(parse_well(well)[0]) for well in by_well}:
            write_bytes(folder / row / ".zgroup", GROUP)
        for well, fields in by_well.items():
            group = folder / well_path(well)
            write_bytes(group / ".zgroup", GROUP)
            write_json(group / ".zattrs", well_metadata(fields))
        write_bytes(folder / ".zgroup", GROUP)
        write_json(folder / ".zattrs", plate_metadata(self._record.plate_name, task.rows, task.columns, by_well))

    def _tables(self, task: _Task) -> Iterator[TableResult]:
        for spec in task.results:
            path = self._partial / "tables" / f"{file_name(spec.name)}.parquet"
            if spec.kind in ("table", "points") and path.exists():
                import pyarrow.parquet as pq

                schema = pq.read_schema(path)
                yield TableResult(
                    name=spec.name,
                    path=f"tables/{path.name}",
                    rows=pq.read_metadata(path).num_rows,
                    columns=tuple(schema.names),
                )

    def _publish(self) -> None:
        if self._folder.exists():
            self._folder.rename(self._replaced)
        self._partial.rename(self._folder)
        # Only now: up to here a repeated call needs them.
        remove(self._folder / _DONE)
        (self._folder / _TASK).unlink()
        remove(self._replaced)

    def _recover(self) -> None:
        """Undo a `finish` that was stopped between its two renamings, or do what was left of it."""
        if self._replaced.exists():
            if self._folder.exists():
                remove(self._replaced)
            else:
                self._replaced.rename(self._folder)

    @contextmanager
    def _mending(self) -> Iterator[None]:
        """Turn what the operating system says into what the user can do."""
        try:
            yield
        except OSError as error:
            place = self._partial.parent
            if error.errno in _FULL:
                message = f"There is no space left for the results in {place}."
                hint = (
                    "Free some space there, or connect a repository on another disk; then run it again with --resume."
                )
            elif error.errno in _CLOSED:
                message = f"The results folder {place} cannot be written."
                hint = "Make it writable, or connect a repository of your own; then run it again with --resume."
            else:
                message = f"Results cannot be written in {place}: {error.strerror or error}."
                hint = "Check the disk, then run it again with --resume."
            raise RepositoryError(message, hint) from error


def _replace(path: Path, content: bytes) -> None:
    # Whoever finds the file finds it whole.
    partial = path.with_name(f"{path.name}.partial")
    write_bytes(partial, content)
    partial.replace(path)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _place(well: str | None, field: int | None) -> Place:
    return (None, None) if well is None else (well_name(*parse_well(well)), field)


def _groups(specs: Sequence[ResultSpec], arrays: Mapping[str, NDArray[np.generic]], at: Place) -> dict[str, Group]:
    """Say where each array of a place goes; refuse what cannot go anywhere."""
    known = {spec.name: spec for spec in specs if spec.kind in ("image", "labels")}
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


def _pixel_results(task: _Task, written: Mapping[Place, Sequence[str]], places: Sequence[Place]) -> list[PixelResult]:
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


def _scale(field: FieldResults) -> Scale:
    return Scale(field.pixel_size_um, field.z_step_um, field.position_um, field.t_step_s)


def _order(place: Place) -> tuple[int, int, int]:
    well, field = place
    return (-1, -1, -1) if well is None else (*parse_well(well), field or 0)
