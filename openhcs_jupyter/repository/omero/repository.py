"""Plates in OMERO: metadata by omero-py, pixels in place where the administrator allows it, else through the server."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from openhcs_jupyter.config import data_dir, load_settings
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Image, Plate, PlateSummary, RunRecord
from openhcs_jupyter.repository.base import Group, PixelSource, Repository, ResultWriter, Trace
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.address import Source, parse_address, parse_reference
from openhcs_jupyter.repository.omero.broker.client import BrokerClient, BrokerError
from openhcs_jupyter.repository.omero.broker.order import Order
from openhcs_jupyter.repository.omero.finding import Wanted, find
from openhcs_jupyter.repository.omero.groups import find_group, list_groups
from openhcs_jupyter.repository.omero.imported import Registered, folder_of, open_registered, register, same_plane
from openhcs_jupyter.repository.omero.plates import load_plate, part_of
from openhcs_jupyter.repository.omero.queries import FieldRow, FileRow, ask
from openhcs_jupyter.repository.omero.raw_pixels import RawPixels
from openhcs_jupyter.repository.omero.romio import RomioPixels, path_of
from openhcs_jupyter.repository.omero.sessions import PATIENCE_S, Connection, given_key, saved_session
from openhcs_jupyter.repository.omero.tracing import trace


class Place(msgspec.Struct, frozen=True):
    """Where the pixels of an image are; what a worker needs to open it without asking the server."""

    pixels: int
    well: str
    field: int
    well_id: int
    file: str
    """Its file in OMERO's own layout, where that may be read; empty where pixels come through the server."""
    why: str
    """Why it is not read in place; empty where it is."""
    registered: Registered | None = None
    """Its imported files, where those are read in place."""
    broker: bool = False
    """The broker opens its file."""

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.well} field {self.field}"


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
        self._places: dict[int, Place] = {}
        self._of_plate: dict[int, dict[int, Place]] = {}
        self._registered: EmbeddedRepository | None = None
        settings = load_settings()
        self._binary = settings.omero_binary_repository
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
                format=f"OMERO, group {group}",
                imported=_date(made),
                source=f"screen {screen_of[number]}" if number in screen_of else "",
            )
            for number, name, group, made in plates
        ]

    def plate(self, plate: int | str) -> Plate:
        """Return what is named by an id, a name or a link: a plate or a part of one, or images that are in no plate."""
        context = self.connection.chosen

        def load(session: Any) -> tuple[Wanted, Plate, list[FieldRow]]:
            wanted = Wanted(Source.of(plate)) if isinstance(plate, int) else find(session, plate, context)
            return wanted, *load_plate(session, wanted.source, self.uri, self.connection.everywhere)

        wanted, found, fields = self.connection.call(load)
        for row in fields:
            self._places[row.image] = self._place(row)
        if self._binary and any(row.fileset is not None for row in fields):
            self._register(found, fields)
        if self._broker is not None:
            self._ask_broker(self._broker, fields)
        self._keep_places(found)
        return found if wanted.place is None else part_of(found, wanted.place, wanted.sample)

    def cell_name(self, plate: int, given: object = None) -> str:
        """Return what a cell calls a plate: its id, or such as ``Dataset:7``; a part of a plate as it was given."""
        reference = parse_reference(given) if isinstance(given, str) else None
        if isinstance(given, str) and reference is not None and reference[0] in ("Well", "Image"):
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
        place = self._place_of(image)
        if place.registered is not None:
            return open_registered(self._files, image, place.registered)
        if place.broker:
            if self._broker is None:
                raise RepositoryError(f"{place.name}: omero_broker is not set any more.", "Load its plate again.")
            likely = self._order.after(image.id, lambda: [one for one, place in self._places.items() if place.broker])
            return self._mapped(self._broker.open(image.id, ahead=self._order.following, then=likely), image, place)
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
        return [
            f"{self._place_of(image).name}: image {image.id} {'has other pixels' if image.id in now else 'is gone'}"
            for image in images
            if now.get(image.id) != image.version
        ]

    def told_of(self, images: Sequence[Image]) -> tuple[str, ...]:
        """Say which way pixels come: in place, or through the server, and then why."""
        places = [self._place_of(image) for image in images]
        ways = Counter(place.why for place in places if place.why)
        in_place = len(places) - sum(ways.values())
        opened = sum(place.broker for place in places)
        by_broker = f", {opened} through the broker" if opened else ""
        told = [f"{in_place} of {len(places)} images are read in place{by_broker}."] if in_place else []
        told += [
            f"{count} of {len(places)} images come through the OMERO server, which is slower: {why}."
            for why, count in ways.items()
        ]
        return tuple(told)

    def writer(self, record: RunRecord) -> ResultWriter:
        """Return the writer of a run's results."""
        from openhcs_jupyter.repository.omero.results import OmeroWriter

        return OmeroWriter(self, record)

    def delete_results(self, run: str) -> str:
        """Delete from the server exactly what a run has made."""
        from openhcs_jupyter.repository.omero.markers import delete_marked

        made = self.connection.call(lambda session: delete_marked(session, run, self.connection.everywhere), PATIENCE_S)
        deleted = ", ".join(f"{count} {kind}" for kind, count in made.items())
        return f"Deleted of run {run}: {deleted}." if deleted else f"Run {run} has made nothing in {self.uri}."

    def places_of(self, plate: int) -> dict[int, Place]:
        """Return where the images of a plate that was loaded are, by image id."""
        if plate not in self._of_plate:
            path = self._places_file / f"{plate}.msgpack"
            try:
                self._of_plate[plate] = msgspec.msgpack.decode(path.read_bytes(), type=dict[int, Place])
            except FileNotFoundError:
                raise RepositoryError(f"Plate {plate} was not loaded on this machine.", "Load it first.") from None
        return self._of_plate[plate]

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

    def _ask_broker(self, broker: BrokerClient, fields: Sequence[FieldRow]) -> None:
        """Find out which images the broker opens; the others come through the server, and it is said why."""
        open_ = [row.image for row in fields if row.fileset is None and not self._places[row.image].file]
        try:
            refused = broker.check(open_, patience_s=0.0)
        except BrokerError as error:
            refused = dict.fromkeys(open_, error.message.rstrip("."))
        for image in open_:
            why = refused.get(image, "")
            self._places[image] = msgspec.structs.replace(self._places[image], why=why, broker=not why)

    def _mapped(self, descriptor: int, image: Image, place: Place) -> PixelSource:
        try:
            return RomioPixels(descriptor, image.layout, place.name)
        finally:
            os.close(descriptor)

    def _place(self, row: FieldRow) -> Place:
        from openhcs_jupyter.model import well_name

        where = (row.pixels, well_name(row.row, row.column), row.position + 1, row.well)
        if not self._binary:
            return Place(*where, "", "omero_binary_repository is not set")
        if row.fileset is not None:
            return Place(*where, "", "it was imported")
        file = Path(self._binary).expanduser() / path_of("Pixels", row.pixels)
        if not file.exists():
            return Place(*where, "", f"{file} is not there")
        return Place(*where, str(file), "")

    @property
    def _files(self) -> EmbeddedRepository:
        """The imported files that are read in place."""
        if self._registered is None:
            self._registered = EmbeddedRepository(self.folder / "imported")
        return self._registered

    def _register(self, plate: Plate, fields: Sequence[FieldRow]) -> None:
        """Have imported files read in place, where they are what OMERO says; else say why not."""
        try:
            found = self._trusted(plate, fields)
        except RepositoryError as error:
            for row in fields:
                self._places[row.image] = msgspec.structs.replace(self._places[row.image], why=error.message)
            return
        for image, registered in found.items():
            self._places[image] = msgspec.structs.replace(self._places[image], registered=registered, why="")

    def _trusted(self, plate: Plate, fields: Sequence[FieldRow]) -> dict[int, Registered]:
        filesets = {row.fileset for row in fields}
        if len(filesets) != 1:
            raise RepositoryError(f"its images come from {len(filesets)} filesets")
        context = self.connection.everywhere
        rows = self.connection.call(lambda session: ask(session, queries.FILES, context, ids=sorted(filesets)))
        if not rows:
            raise RepositoryError("its fileset names no files")
        folder = folder_of([FileRow(*row) for row in rows], Path(self._binary).expanduser() / "ManagedRepository")
        found = register(self._files, folder, plate, fields)
        image = plate.wells[0].fields[0].images[0]
        with RawPixels(self.connection, self._places[image.id].pixels, image.layout, plate.name) as server:
            plane = server.plane(0, 0, 0)
        if not same_plane(self._files, image, found[image.id], plane):
            raise RepositoryError(f"the files in {folder} are not what the server gives for {plate.wells[0].name}")
        return found

    @property
    def _places_file(self) -> Path:
        return self.folder / "places"

    def _keep_places(self, plate: Plate) -> None:
        """Leave for the workers where the plate's pixels are, so that none of them has to ask the server."""
        folder = self._places_file
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        images = {image.id: self._places[image.id] for _, field in plate.fields() for image in field.images}
        partial = folder / f".{plate.id}.{os.getpid()}"
        partial.write_bytes(msgspec.msgpack.encode(images))
        partial.replace(folder / f"{plate.id}.msgpack")
        self._of_plate[plate.id] = images

    def _place_of(self, image: Image) -> Place:
        if image.id not in self._places:
            for path in sorted(self._places_file.glob("*.msgpack"), key=lambda path: -path.stat().st_mtime):
                self._places |= msgspec.msgpack.decode(path.read_bytes(), type=dict[int, Place])
                if image.id in self._places:
                    break
            else:
                raise RepositoryError(f"Image {image.id} belongs to no plate that was loaded.", "Load its plate.")
        return self._places[image.id]


def _date(made: object) -> str:
    import datetime as dt

    when = dt.datetime.fromtimestamp(made / 1000, dt.UTC) if isinstance(made, int | float) else None
    return when.isoformat(timespec="seconds") if when else ""
