"""Plates in OMERO: metadata by omero-py, pixels in place where the administrator allows it, else through the server."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openhcs_jupyter.config import data_dir, load_settings
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Image, Plate, PlateSummary, RunRecord, well_name
from openhcs_jupyter.repository.base import Group, PixelSource, Repository, ResultWriter, Trace
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.address import Source, parse_address, parse_name, parse_reference, parse_well_of
from openhcs_jupyter.repository.omero.broker.client import BrokerClient
from openhcs_jupyter.repository.omero.broker.order import Order
from openhcs_jupyter.repository.omero.files import Files
from openhcs_jupyter.repository.omero.finding import Wanted, find
from openhcs_jupyter.repository.omero.groups import find_group, list_groups
from openhcs_jupyter.repository.omero.imported import names_of, open_registered
from openhcs_jupyter.repository.omero.keys import given_key, saved_session
from openhcs_jupyter.repository.omero.mirror import Hand
from openhcs_jupyter.repository.omero.places import Place, Places
from openhcs_jupyter.repository.omero.plates import Loaded, load_plate, part_of
from openhcs_jupyter.repository.omero.queries import FieldRow, ask
from openhcs_jupyter.repository.omero.raw_pixels import RawPixels
from openhcs_jupyter.repository.omero.romio import RomioPixels, path_of
from openhcs_jupyter.repository.omero.sessions import PATIENCE_S, Connection
from openhcs_jupyter.repository.omero.tracing import trace
from openhcs_jupyter.repository.omero.zarr_pixels import ENTITY, ZarrPixels, folder_of_group

_SHOWN = 6


class OmeroRepository(Repository):
    """An OMERO server, as one user sees it.

    Parameters
    ----------
    uri
        Such as ``omero://ada@omero.lab.edu``.
    password
        Asks the user for a password; None joins a session that is there.

    Raises
    ------
    RepositoryError
        If `uri` is no address, the server does not answer, or lets nobody in.
    """

    def __init__(self, uri: str, password: Callable[[str], str] | None = None) -> None:
        self.address = parse_address(uri)
        self.uri = self.address.uri
        self._password = password
        self._connection: Connection | None = None
        self._patience_s = PATIENCE_S
        self._order = Order()
        self._places = Places(lambda: self.folder / "places")
        self._registered: EmbeddedRepository | None = None
        settings = load_settings()
        self._binary = settings.omero_binary_repository
        self._roots = [Path(root).expanduser() for root in (self._binary, settings.omero_zarr_results) if root]
        """Folders in which OME-Zarr may be read in place."""
        self._broker = BrokerClient(settings.omero_broker, self._session_key) if settings.omero_broker else None

    def reach(self) -> None:
        """Open or join the session, and have it kept alive."""
        self._patience_s = 0.0  # somebody waits for it; a worker has time
        self.connection.keep_alive()

    @property
    def connection(self) -> Connection:
        """The session; opened or joined when it is first needed."""
        if self._connection is None:
            self._connection = Connection(self.address, self._password, self._patience_s)
        return self._connection

    @property
    def folder(self) -> Path:
        """Folder of this user's runs on this machine."""
        user = self.address.user or self.connection.user
        return data_dir(load_settings()) / "omero" / f"{self.address.host}_{self.address.port}" / user

    @property
    def runs_folder(self) -> Path:
        """Folder of the run store."""
        folder = self.folder / "runs"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def plates(self) -> list[PlateSummary]:
        """List the plates of all the user's groups, by id."""
        context = self.connection.chosen

        def look(session: Any) -> tuple[list[list[Any]], ...]:
            return tuple(ask(session, query, context) for query in (queries.PLATES, queries.SCREENS, queries.COUNTS))

        plates, screens, counts = self.connection.call(look)
        screen_of: dict[int, str] = dict(screens)
        count_of = {number: (wells, fields) for number, wells, fields in counts}
        return [
            PlateSummary(
                id=number,
                name=str(name),
                wells=count_of.get(number, (0, 0))[0],
                fields=count_of.get(number, (0, 0))[1],
                channels=(),
                planes=0,
                bytes=0,
                format=f"OMERO, group {group}" + (f", screen {screen_of[number]}" if number in screen_of else ""),
                imported=_date(made),
                source=f"screen {screen_of[number]}" if number in screen_of else "",
            )
            for number, name, group, made in plates
        ]

    def plate(self, plate: int | str) -> Plate:
        """Return what is named by an id, a name or a link: a plate or a part of one, or images that are in no plate."""
        context = self.connection.chosen

        def load(session: Any) -> tuple[Wanted, Loaded]:
            wanted = Wanted(Source.of(plate)) if isinstance(plate, int) else find(session, plate, context)
            return wanted, load_plate(session, wanted.source, self.uri, self.connection.everywhere)

        wanted, (found, fields, unseen) = self.connection.call(load)
        places = {row.image: self._place(row) for row in fields}
        told = [f"No image that you may see has {_some(unseen)}: left out."] if unseen else []
        if self._roots or self._broker is not None:
            files = Files(self.connection, self._files, found, fields, places, told)
            if self._binary:
                files.trust(Path(self._binary).expanduser())
            files.trust_zarr()
            if self._broker is not None:
                files.ask(self._broker)
        self._places.keep(found, places, tuple(told))
        return found if wanted.place is None else part_of(found, wanted.place, wanted.sample)

    def cell_name(self, plate: int, given: object = None) -> str:
        """Return what a cell calls a plate: its id, or such as ``Dataset:7``; a part of a plate as it was given."""
        if isinstance(given, str):
            kind = (parse_reference(given) or parse_name(given))[0]
            if kind in ("Well", "Image") or parse_well_of(given) is not None:
                return given
        return Source.of(plate).name

    def trace(self, made: str) -> Trace:
        """Find the run that made something in OMERO, in this or another place."""
        return self.connection.call(lambda session: trace(session, made, self.connection.everywhere))

    def groups(self) -> list[Group]:
        """List the groups of the user, with the number of plates that the user sees in each."""
        return self.connection.call(lambda session: list_groups(session, self.connection))

    def choose_group(self, name: str | None) -> None:
        """Take only plates of one group, by its name or id, from now on; None takes those of all groups."""
        self.connection.chosen_group = self.connection.call(lambda session: find_group(session, name, self.connection))

    def open(self, image: Image) -> PixelSource:
        """Open an image: its file where that may be read, else its planes through the server."""
        place = self._places.of_image(image)
        if place.registered is not None:
            return open_registered(self._files, image, place.registered, self._hand(image) if place.broker else None)
        if place.zarr:
            return ZarrPixels(Path(place.zarr), image.layout, place.name)
        if place.broker:
            (descriptor,) = self._hand(image)(())
            return self._mapped(descriptor, image, place)
        if place.file:
            try:
                descriptor = os.open(place.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                raise RepositoryError(
                    f"The pixels of {place.name} cannot be read at {place.file}: {error.strerror}.",
                    "Is the binary repository mounted here? Else: %openhcs config omero_binary_repository ''",
                ) from error
            return self._mapped(descriptor, image, place)
        return RawPixels(self.connection, place.pixels, image.layout, place.name, self._patience_s)

    def changed(self, images: Sequence[Image]) -> list[str]:
        """Say which images are not as they were: those that are gone, or whose pixels were written again since."""
        context = self.connection.everywhere
        ids = [image.id for image in images]
        rows = self.connection.call(lambda session: ask(session, queries.VERSIONS, context, ids=ids))
        now = {image: f"{pixels}:{sha1}" for image, pixels, sha1 in rows}
        others = [(image, "has other pixels" if image.id in now else "is gone") for image in images]
        return [
            f"{self._places.of_image(image).name}: image {image.id} {what}"
            for image, what in others
            if now.get(image.id) != image.version
        ]

    def told_of(self, images: Sequence[Image]) -> tuple[str, ...]:
        """Say which way pixels come: in place, or through the server, and then why."""
        places = [self._places.of_image(image) for image in images]
        ways = Counter(place.why for place in places if place.why)
        in_place = len(places) - sum(ways.values())
        opened = sum(place.broker for place in places)
        by_broker = f", {opened} through the broker" if opened else ""
        told = [f"{in_place} of {len(places)} images are read in place{by_broker}."] if in_place else []
        told += [
            f"{count} of {len(places)} images come through the OMERO server, which is slower: {why}."
            for why, count in ways.items()
        ]
        return (*told, *self._places.told_of(images))

    def writer(self, record: RunRecord) -> ResultWriter:
        """Return the writer of a run's results."""
        from openhcs_jupyter.repository.omero.results import OmeroWriter

        return OmeroWriter(self, record)

    def delete_results(self, run: str) -> str:
        """Delete from the server exactly what a run has made, and the OME-Zarr files of its images."""
        from openhcs_jupyter.repository.omero.markers import delete_marked, registered
        from openhcs_jupyter.repository.omero.zarr_results import remove_files

        everywhere = self.connection.everywhere
        zarr = self.connection.call(lambda session: registered(session, run, everywhere), PATIENCE_S)
        made = self.connection.call(lambda session: delete_marked(session, run, everywhere), PATIENCE_S)
        deleted = ", ".join(f"{count} {kind}" for kind, count in made.items())
        told = f"Deleted of run {run}: {deleted}." if deleted else f"Run {run} has made nothing in {self.uri}."
        return told + remove_files(load_settings().omero_zarr_results, run, zarr)

    def places_of(self, plate: int) -> dict[int, Place]:
        """Return where the images of a plate that was loaded are, by image id."""
        return self._places.of_plate(plate)

    def image_of(self, plate: int, well: str | None, field: int | None) -> int | None:
        """Return the id of the image of a field; None where it is no field's."""
        for image, place in self.places_of(plate).items():
            if (place.well, place.field) == (well, field):
                return image
        return None

    def close(self) -> None:
        """Leave the session."""
        if self._registered is not None:
            self._registered.close()
            self._registered = None
        if self._broker is not None:
            self._broker.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _session_key(self) -> str:
        """Return the session's key; nothing is asked of the server where it is known."""
        if self._connection is None:
            saved = saved_session(self.address)
            if key := given_key() or (saved.key if saved else None):
                return key
        return self.connection.key

    def _hand(self, image: Image) -> Hand:
        """Return what has the broker open files of an image, and meanwhile those of the one that likely follows."""
        broker = self._broker
        if broker is None:
            name = self._places.of_image(image).name
            raise RepositoryError(f"{name}: omero_broker is not set any more.", "Load its plate again.")
        likely = self._order.after(image.id, lambda: self._places.of_broker)
        then: tuple[int, list[str]] | None = None
        if likely is not None:
            registered = self._places.known(likely).registered
            then = likely, names_of(self._files, image, registered) if registered is not None else []
        return lambda files: broker.open(image.id, files, self._order.following, then)

    def _mapped(self, descriptor: int, image: Image, place: Place) -> PixelSource:
        try:
            return RomioPixels(descriptor, image.layout, place.name)
        finally:
            os.close(descriptor)

    def _place(self, row: FieldRow) -> Place:
        where = (row.pixels, well_name(row.row, row.column), row.position + 1, row.well)
        if self._roots and row.external_type == ENTITY and row.external_path:
            try:
                return Place(*where, "", "", zarr=str(folder_of_group(row.external_path, self._roots)))
            except RepositoryError as error:
                return Place(*where, "", error.message)
        if not self._binary:
            return Place(*where, "", "omero_binary_repository is not set")
        root = Path(self._binary).expanduser()
        if row.fileset is not None:
            return Place(*where, "", "it was imported")
        file = root / path_of("Pixels", row.pixels)
        if not file.exists():
            pyramid = file.with_name(f"{file.name}_pyramid").exists()
            return Place(*where, "", "OMERO keeps it as a pyramid" if pyramid else f"{file} is not there")
        return Place(*where, str(file), "")

    @property
    def _files(self) -> EmbeddedRepository:
        """The imported files that are read in place."""
        if self._registered is None:
            self._registered = EmbeddedRepository(self.folder / "imported")
        return self._registered


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _date(made: object) -> str:
    import datetime as dt

    when = dt.datetime.fromtimestamp(made / 1000, dt.UTC) if isinstance(made, int | float) else None
    return when.isoformat(timespec="seconds") if when else ""
