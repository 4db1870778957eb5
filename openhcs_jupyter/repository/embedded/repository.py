"""The embedded repository: one folder with a catalogue, runs and results; plates stay where they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, Field, Image, Layout, Plate, PlateSummary, RunRecord, Well, well_name
from openhcs_jupyter.repository.base import Repository, ResultWriter
from openhcs_jupyter.repository.embedded import catalogue as _catalogue
from openhcs_jupyter.repository.embedded.catalogue import Catalogue

if TYPE_CHECKING:
    from openhcs_jupyter.repository.embedded.formats.base import Progress
    from openhcs_jupyter.repository.embedded.pixels import FilePixels, PlaneTable

_SUMMARY = """
SELECT id, name, wells, fields, planes, bytes, format, imported, source, problems,
       (SELECT json_group_array(name) FROM (SELECT name FROM channel WHERE plate = plate.id ORDER BY position))
FROM plate ORDER BY id
"""
_FILES = """
SELECT image.id, plate.source, planes.packed
FROM planes JOIN image ON image.id = planes.image JOIN plate ON plate.id = image.plate
WHERE image.plate = (SELECT plate FROM image WHERE id = ?)
"""
_IMAGE = """
SELECT planes.packed, image.version, plate.source, plate.name, plate.format, well."row", well."column",
       wellsample.number, image.kind
FROM image JOIN planes ON planes.image = image.id JOIN plate ON plate.id = image.plate
     JOIN wellsample ON wellsample.id = image.wellsample JOIN well ON well.id = wellsample.well
WHERE image.id = ?
"""


class EmbeddedRepository(Repository):
    """Plates registered in place, in one folder's catalogue.

    Parameters
    ----------
    folder
        Of the repository; made if absent.

    Raises
    ------
    RepositoryError
        If `folder` holds other things and no catalogue, or cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().absolute()
        _prepare(self.folder)
        self.folder = self.folder.resolve()
        self.uri = str(self.folder)
        self.catalogue = Catalogue(self.folder)
        self._decoder: msgspec.msgpack.Decoder[PlaneTable] | None = None

    @property
    def runs_folder(self) -> Path:
        """Folder of the run store."""
        return self.folder / "runs"

    @property
    def results_folder(self) -> Path:
        """Folder in which each run's saved results have a folder."""
        return self.folder / "results"

    @property
    def plates_folder(self) -> Path:
        """Folder of plates that were made, not registered elsewhere."""
        return self.folder / "plates"

    def plates(self) -> list[PlateSummary]:
        """List the plates, by id."""
        return [
            PlateSummary(
                id=row[0],
                name=row[1],
                wells=row[2],
                fields=row[3],
                planes=row[4],
                bytes=row[5],
                format=row[6],
                imported=row[7],
                source=row[8],
                problems=msgspec.json.decode(row[9], type=tuple[str, ...]),
                channels=msgspec.json.decode(row[10], type=tuple[str, ...]),
            )
            for row in self.catalogue.fetch(_SUMMARY)
        ]

    def plate(self, plate: int | str) -> Plate:
        """Return a plate by its id or its name."""
        fetch = self.catalogue.fetch
        # One transaction, so that an import in between is seen whole or not at all.
        with self.catalogue.snapshot():
            number = self._find(plate)
            ((name, rows, columns),) = fetch("SELECT name, rows, columns FROM plate WHERE id = ?", (number,))
            channels = fetch(
                "SELECT name, emission_nm, excitation_nm, color FROM channel WHERE plate = ? ORDER BY position",
                (number,),
            )
            layouts = fetch("SELECT id, layout FROM layout WHERE plate = ?", (number,))
            images = fetch(
                "SELECT wellsample, id, kind, layout, version FROM image WHERE plate = ? ORDER BY id", (number,)
            )
            fields = fetch(
                "SELECT well, id, number, position_y, position_x, acquired FROM wellsample "
                "WHERE plate = ? ORDER BY number",
                (number,),
            )
            wells = fetch('SELECT id, "row", "column" FROM well WHERE plate = ? ORDER BY "row", "column"', (number,))
        shared = {key: msgspec.msgpack.decode(packed, type=Layout) for key, packed in layouts}
        by_field: dict[int, list[Image]] = {}
        for field, key, kind, layout, version in images:
            image = Image(id=key, kind=kind, layout=shared[layout], version=version)
            by_field.setdefault(field, []).append(image)
        by_well: dict[int, list[Field]] = {}
        for well, key, field_number, y, x, acquired in fields:
            position = None if y is None or x is None else (y, x)
            images_of = tuple(by_field[key])
            one = Field(id=key, number=field_number, images=images_of, position_um=position, acquired=acquired)
            by_well.setdefault(well, []).append(one)
        return Plate(
            id=number,
            name=name,
            repository=self.uri,
            rows=rows,
            columns=columns,
            channels=tuple(
                Channel(name=channel, emission_nm=emission, excitation_nm=excitation, color=color)
                for channel, emission, excitation, color in channels
            ),
            wells=tuple(Well(id=key, row=row, column=column, fields=tuple(by_well[key])) for key, row, column in wells),
        )

    def open(self, image: Image) -> FilePixels:
        """Open an image for reading: one query, and a look at each file's size and date."""
        from openhcs_jupyter.repository.embedded.pixels import FilePixels

        return FilePixels(*self.found(image))

    def found(self, image: Image) -> tuple[str, Layout, PlaneTable, str, str]:
        """Say where the planes of an image are: what `FilePixels` takes.

        Raises
        ------
        RepositoryError
            If the image is unknown, or was imported again.
        """
        from openhcs_jupyter.repository.embedded.pixels import PlaneTable

        if self._decoder is None:
            self._decoder = msgspec.msgpack.Decoder(PlaneTable)
        rows = self.catalogue.fetch(_IMAGE, (image.id,))
        if not rows:
            raise RepositoryError(f"The repository {self.uri} has no image {image.id}.", "Load its plate again.")
        packed, version, root, plate, reader, well_row, well_column, number, kind = rows[0]
        name = f"{plate} {well_name(well_row, well_column)} field {number} ({kind})"
        if version != image.version:
            raise RepositoryError(f"{name} was imported again since the plate was loaded.", "Load the plate again.")
        return root, image.layout, self._decoder.decode(packed), name, reader

    def changed(self, images: Sequence[Image]) -> list[str]:
        """Say which files of these images are gone or not as they were when the plate was imported."""
        from openhcs_jupyter.repository.embedded.pixels import PlaneTable, changed_files

        decoder = msgspec.msgpack.Decoder(PlaneTable)
        wanted = {image.id for image in images}
        tables: list[tuple[str, PlaneTable]] = []
        while wanted:
            rows = self.catalogue.fetch(_FILES, (next(iter(wanted)),))  # of one plate after the other
            tables += [(root, decoder.decode(packed)) for number, root, packed in rows if number in wanted]
            wanted -= {row[0] for row in rows} or wanted
        return changed_files(tables)

    def writer(self, record: RunRecord) -> ResultWriter:
        """Return the writer of a run's results, which will lie in ``results/<run id>``."""
        from openhcs_jupyter.repository.embedded.results import OmeZarrWriter

        return OmeZarrWriter(self.results_folder / record.id, record)

    def delete_results(self, run: str) -> str:
        """Delete the folder of a run's saved results."""
        from openhcs_jupyter.repository.embedded.gathering import Gathering

        folder = self.results_folder / run
        there = folder.exists()
        Gathering(folder).delete()
        return f"{folder} was deleted." if there else f"Run {run} has no saved results in {self.results_folder}."

    def import_plate(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        progress: Progress | None = None,
        reader: str | None = None,
        pattern: str | None = None,
    ) -> PlateSummary:
        """Register the plate in `folder` in place; see `openhcs_jupyter.repository.embedded.importing.register`."""
        from openhcs_jupyter.repository.embedded.importing import register

        number = register(self.catalogue, folder, name=name, progress=progress, reader=reader, pattern=pattern)
        return next(summary for summary in self.plates() if summary.id == number)

    def close(self) -> None:
        """Release connections."""
        self.catalogue.close()

    def _find(self, plate: int | str) -> int:
        """Return the id of a plate; digits are an id unless a plate has them for its name."""
        known: list[tuple[int, str]] = self.catalogue.fetch("SELECT id, name FROM plate")
        named = [number for number, name in known if name == plate]
        if len(named) == 1:
            return named[0]
        if len(named) > 1:
            listed = ", ".join(map(str, named))
            raise RepositoryError(f"Several plates are named {plate!r}: {listed}.", "Name it by its id.")
        number = int(plate) if isinstance(plate, int) or plate.isdecimal() else None
        if any(number == one for one, _ in known):
            assert number is not None
            return number
        listed = ", ".join(f"{one} ({name})" for one, name in known) or "none; import one"
        raise RepositoryError(f"There is no plate {plate!r} in {self.uri}.", f"Plates: {listed}.")


def _prepare(folder: Path) -> None:
    """Make a repository of a folder that is absent or empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _catalogue.exists(folder):
            return
        if not _catalogue.is_empty(folder):
            # Another process may have made it between the two looks.
            if _catalogue.exists(folder):
                return
            raise RepositoryError(
                f"{folder} is not empty and holds no repository.",
                "Name an empty or new folder; a plate's folder is imported into a repository, not connected to.",
            )
        _catalogue.create(folder)
    except FileExistsError as error:
        raise RepositoryError(f"{folder} is a file.", "Name a folder.") from error
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise RepositoryError(
            f"A repository cannot be made in {folder}: {why}.",
            "Name a folder that you may write to.",
        ) from error
