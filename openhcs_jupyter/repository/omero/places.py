"""Where the pixels of a plate's images are: found out once, and left for the workers of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.files import write_whole
from openhcs_jupyter.model import Image, Plate
from openhcs_jupyter.repository.omero.imported import Registered


class Place(msgspec.Struct, frozen=True):
    """Where the pixels of an image are; what a worker needs to open it without asking the server."""

    pixels: int
    well: str
    field: int
    well_id: int
    file: str
    """Its file in OMERO's own layout, where that may be read; empty where pixels come another way."""
    why: str
    """Why it is not read in place; empty where it is."""
    registered: Registered | None = None
    """Its imported files, where those are read in place."""
    broker: bool = False
    """The broker opens its file, or its imported files."""
    zarr: str = ""
    """Folder of its OME-Zarr image, where that is read in place."""

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.well} field {self.field}"


class _Kept(msgspec.Struct, frozen=True):
    """What is kept of a plate."""

    images: dict[int, Place]
    told: tuple[str, ...]
    """What users should know of the plate."""


class Places:
    """The places of all images of plates that were loaded, by this process or another of the user's.

    Parameters
    ----------
    folder
        Returns where they are kept.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._plates: dict[int, _Kept] = {}
        self._of_image: dict[int, Place] = {}

    def keep(self, plate: Plate, places: Mapping[int, Place], told: tuple[str, ...]) -> None:
        """Leave for the workers where a plate's pixels are, so that none of them has to ask the server."""
        folder = self._folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = _Kept(dict(places), told)
        write_whole(folder / f"{plate.id}.msgpack", msgspec.msgpack.encode(kept))
        self._take(plate.id, kept)

    def of_plate(self, plate: int) -> dict[int, Place]:
        """Return the places of a plate's images, by image id.

        Raises
        ------
        RepositoryError
            If it was not loaded on this machine.
        """
        if plate not in self._plates:
            try:
                self._take(plate, _read(self._folder() / f"{plate}.msgpack"))
            except FileNotFoundError:
                raise RepositoryError(f"Plate {plate} was not loaded on this machine.", "Load it first.") from None
        return self._plates[plate].images

    def of_image(self, image: Image) -> Place:
        """Return the place of an image.

        Raises
        ------
        RepositoryError
            If no plate with it was loaded on this machine.
        """
        if image.id not in self._of_image:
            for path in sorted(self._folder().glob("*.msgpack"), key=lambda path: -path.stat().st_mtime):
                self._take(int(path.stem), _read(path))
                if image.id in self._of_image:
                    break
            else:
                raise RepositoryError(f"Image {image.id} belongs to no plate that was loaded.", "Load its plate.")
        return self._of_image[image.id]

    def told_of(self, images: Iterable[Image]) -> tuple[str, ...]:
        """Return what users should know of the plates of some images."""
        ids = {image.id for image in images}
        plates = (kept for kept in self._plates.values() if not ids.isdisjoint(kept.images))
        return tuple(dict.fromkeys(text for kept in plates for text in kept.told))

    @property
    def of_broker(self) -> list[int]:
        """Ids of the images whose files the broker opens, in their plates' order."""
        return [image for image, place in self._of_image.items() if place.broker]

    def known(self, image: int) -> Place:
        """Return the place of an image that `of_broker` named."""
        return self._of_image[image]

    def _take(self, plate: int, kept: _Kept) -> None:
        self._plates[plate] = kept
        self._of_image |= kept.images


def _read(path: Path) -> _Kept:
    return msgspec.msgpack.decode(path.read_bytes(), type=_Kept)
