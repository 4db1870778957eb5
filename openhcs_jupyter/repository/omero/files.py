"""Finds out which images of a plate can be read from files, here or by the broker, and holds these against OMERO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Image, Plate
from openhcs_jupyter.repository.base import PixelSource
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.omero import mirror, queries
from openhcs_jupyter.repository.omero.broker.client import BrokerClient, BrokerError
from openhcs_jupyter.repository.omero.imported import Registered, folder_of, open_registered, register
from openhcs_jupyter.repository.omero.places import Place
from openhcs_jupyter.repository.omero.queries import FieldRow, FileRow, ask
from openhcs_jupyter.repository.omero.raw_pixels import LARGEST_PLANE, RawPixels
from openhcs_jupyter.repository.omero.sessions import Connection
from openhcs_jupyter.repository.omero.zarr_pixels import ENTITY, ZarrPixels


class Files(NamedTuple):
    """The images of a plate that is being loaded, and what becomes known of them.

    Nobody but the readers of formats knows which imported file holds which plane. So some planes are compared with what
    the server gives before imported files or OME-Zarr are trusted: of each channel, and of other fields.
    """

    connection: Connection
    registered: EmbeddedRepository
    """Where imported files are registered."""
    plate: Plate
    fields: Sequence[FieldRow]
    places: dict[int, Place]
    """By image; changed here."""
    told: list[str]
    """What users should know; added to here."""

    def trust(self, root: Path) -> None:
        """Have imported files read in place, where they are what the server gives; else say why not.

        Parameters
        ----------
        root
            OMERO's data directory.
        """
        imported = [row for row in self.fields if row.fileset is not None and not self.places[row.image].zarr]
        if imported:
            self._change(imported, lambda: self._by_path(imported, root / "ManagedRepository"))

    def trust_zarr(self) -> None:
        """Have OME-Zarr read in place, where it is what the server gives; else say why not."""
        zarr = [row for row in self.fields if self.places[row.image].zarr]
        if zarr:
            self._change(zarr, lambda: self._zarr(zarr[0]))

    def ask(self, broker: BrokerClient) -> None:
        """Have the broker open what cannot be read here; where it does not, it is said why."""
        wanted = []
        for row in self.fields:
            if not self.places[row.image].why:
                continue
            if nothing := self._why_not(row):
                self._set(row, why=nothing)
            else:
                wanted.append(row)
        try:
            refused = broker.check([row.image for row in wanted], patience_s=0.0)
        except BrokerError as error:
            refused = dict.fromkeys((row.image for row in wanted), error.message.rstrip("."))
        for row in wanted:
            if why := refused.get(row.image):
                self._set(row, why=why)
            elif row.fileset is None:
                self._set(row, why="", broker=True)
        imported = [row for row in wanted if row.fileset is not None and row.image not in refused]
        if imported:
            self._change(imported, lambda: self._by_broker(imported, broker))

    def _why_not(self, row: FieldRow) -> str:
        """Say why the broker has nothing to open; empty where it may have."""
        if row.external_type == ENTITY:
            return "it is OME-Zarr, which the broker does not open"
        large = row.size_x * row.size_y > LARGEST_PLANE and row.pixel_type not in ("float", "double")
        if row.fileset is None and large:
            return "OMERO keeps it as a pyramid"
        return ""

    def _set(self, row: FieldRow, **what: object) -> None:
        self.places[row.image] = msgspec.structs.replace(self.places[row.image], **what)

    def _change(self, fields: Sequence[FieldRow], find: Callable[[], Mapping[int, Registered]]) -> None:
        try:
            found = find()
        except RepositoryError as error:
            for row in fields:
                self._set(row, why=error.message.rstrip("."), zarr="")
            return
        for row in fields:
            if (registered := found.get(row.image)) is not None:
                self._set(row, why="", registered=registered, broker=bool(registered.mirror))

    def _by_path(self, fields: Sequence[FieldRow], managed: Path) -> Mapping[int, Registered]:
        _, rows = self._fileset(fields)
        folder = folder_of(rows, managed)
        found, blank = register(self.registered, folder, self.plate, fields)
        self._compare(fields, found, str(folder))
        self._tell(blank)
        return found

    def _by_broker(self, fields: Sequence[FieldRow], broker: BrokerClient) -> Mapping[int, Registered]:
        number, rows = self._fileset(fields)
        hand = partial(broker.open, fields[0].image)
        folder = (self.registered.folder.parent / "mirrors" / str(number)).resolve()
        above = str(mirror.top_of(rows).parent)
        while True:
            was_there = mirror.is_there(folder)
            try:
                found, blank = register(self.registered, mirror.mirror(folder, rows, hand), self.plate, fields)
                found = {image: one._replace(mirror=str(folder), above=above) for image, one in found.items()}
                self._compare(fields, found, f"{above}/{mirror.top_of(rows).name}", hand)
            except RepositoryError:
                if not was_there:
                    raise
                mirror.forget(folder)  # files that have changed meanwhile are no reason yet
            else:
                self._tell(blank)
                return found

    def _fileset(self, fields: Sequence[FieldRow]) -> tuple[int, list[FileRow]]:
        filesets = {row.fileset for row in fields if row.fileset is not None}
        if len(filesets) != 1:
            raise RepositoryError(f"its images come from {len(filesets)} filesets")
        context = self.connection.everywhere
        rows = self.connection.call(lambda session: ask(session, queries.FILES, context, ids=sorted(filesets)))
        if not rows:
            raise RepositoryError("its fileset names no files")
        return filesets.pop(), [FileRow(*row) for row in rows]

    def _zarr(self, row: FieldRow) -> Mapping[int, Registered]:
        image, place = self._image(row), self.places[row.image]
        self._hold_against(image, ZarrPixels(Path(place.zarr), image.layout, place.name), place.zarr)
        return {}

    def _compare(
        self, fields: Sequence[FieldRow], found: Mapping[int, Registered], where: str, hand: mirror.Hand | None = None
    ) -> None:
        """Compare the first image in all its channels, and the last of its well and of the plate."""
        first = fields[0]
        of_well = [row for row in fields if (row.row, row.column) == (first.row, first.column)]
        last = max(of_well, key=lambda row: row.position)
        for number, row in {row.image: row for row in (first, last, fields[-1])}.items():
            image = self._image(row)
            files = open_registered(self.registered, image, found[number], hand)
            self._hold_against(image, files, where, wholly=row is first)

    def _hold_against(self, image: Image, files: PixelSource, where: str, *, wholly: bool = True) -> None:
        """Compare an image's files with what the server gives: the first plane, and `wholly` each channel's last."""
        place, layout = self.places[image.id], image.layout
        looked_at = [(0, 0, 0)]
        if wholly:
            looked_at += [(layout.size_t - 1, c, layout.size_z - 1) for c in range(layout.size_c)]
        with files, RawPixels(self.connection, place.pixels, layout, place.name, ahead=1) as server:
            for t, c, z in dict.fromkeys(looked_at):
                if not np.array_equal(files.plane(t, c, z), server.plane(t, c, z)):
                    raise RepositoryError(f"the files in {where} are not what the server gives for {place.name}")

    def _tell(self, blank: int) -> None:
        if blank:
            self.told.append(f"{blank:,} planes were not acquired: they are zeros, as OMERO gives them.")

    def _image(self, row: FieldRow) -> Image:
        return next(image for _, field in self.plate.fields() for image in field.images if image.id == row.image)
