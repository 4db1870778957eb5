"""Imported files of a plate, read where OMERO keeps them: recognised and registered as a plate of files is.

What the readers of formats find is held against what OMERO says of each image.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Image, Layout, Plate, well_name
from openhcs_jupyter.repository.base import PixelSource
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.omero.mirror import Hand
from openhcs_jupyter.repository.omero.queries import FieldRow, FileRow

if TYPE_CHECKING:
    from openhcs_jupyter.repository.embedded.pixels import FilePixels


class Registered(NamedTuple):
    """An image among the registered files."""

    id: int
    version: str
    mirror: str = ""
    """In which they were registered, where the broker opens them; empty where they are read by their paths."""
    above: str = ""
    """What OMERO's managed repository has in the mirror's place."""


def folder_of(files: Sequence[FileRow], managed: Path) -> Path:
    """Return the folder below which all files of a fileset lie.

    Raises
    ------
    RepositoryError
        If they leave the managed repository.
    """
    managed = managed.resolve()
    folder = Path(os.path.commonpath([managed / file.path for file in files])).resolve()
    if managed not in folder.parents:
        raise RepositoryError(f"its files lie in {folder}, outside of {managed}")
    return folder


def register(
    repository: EmbeddedRepository, folder: Path, plate: Plate, fields: Sequence[FieldRow]
) -> tuple[dict[int, Registered], int]:
    """Register a fileset's folder and find each of OMERO's images in it.

    Parameters
    ----------
    repository
        Where it is registered.
    folder
        Of the fileset.
    plate
        As OMERO describes it.
    fields
        Its images.

    Returns
    -------
    dict
        By id of OMERO's image.
    int
        How many planes of theirs are in no file.

    Raises
    ------
    RepositoryError
        If the files are not recognised, or are not what OMERO says of the plate; says why.
    """
    found = repository.plate(repository.import_plate(folder).id)
    wells = {(well.row, well.column): well.fields for well in found.wells}
    images = {image.id: image for _, field in plate.fields() for image in field.images}
    of_well: Mapping[tuple[int, int], list[FieldRow]] = defaultdict(list)
    for row in fields:
        of_well[row.row, row.column].append(row)
    registered = {}
    blank = 0
    for place, rows in of_well.items():
        there = wells.get(place, ())
        if len(there) != len(rows):
            raise RepositoryError(f"its files have {len(there)} fields in a well in which OMERO has {len(rows)}")
        for row, field in zip(sorted(rows, key=lambda row: row.position), there, strict=True):
            stack = field.image("stack")
            if stack is None or _shape(stack.layout) != _shape(images[row.image].layout):
                raise RepositoryError(f"its files have other images than OMERO in {well_name(*place)}")
            registered[row.image] = Registered(stack.id, stack.version)
            blank += len(stack.layout.missing)
    return registered, blank


def open_registered(
    repository: EmbeddedRepository, image: Image, registered: Registered, hand: Hand | None = None
) -> PixelSource:
    """Open an image's files; `hand` opens them where the broker does."""
    own = msgspec.structs.replace(image, id=registered.id, version=registered.version)
    if not registered.mirror:
        return _Filled(repository.open(own), image.layout)
    assert hand is not None
    from openhcs_jupyter.repository.omero.handed import HandedPixels

    handed = HandedPixels(*repository.found(own), Path(registered.mirror), registered.above, hand)
    return _Filled(handed, image.layout)


def names_of(repository: EmbeddedRepository, image: Image, registered: Registered) -> list[str]:
    """Return what OMERO calls the files of an image that are opened at first, where the broker opens them."""
    from openhcs_jupyter.repository.omero import handed

    own = msgspec.structs.replace(image, id=registered.id, version=registered.version)
    root, _, table, *_ = repository.found(own)
    return handed.names_of(root, table, Path(registered.mirror), registered.above)[: handed.AT_ONCE]


class _Filled(PixelSource):
    """Planes of files; those that were not acquired are zeros, as OMERO gives them."""

    def __init__(self, files: FilePixels, layout: Layout) -> None:
        self._files = files
        self._layout = layout

    def plane(self, t: int, c: int, z: int) -> NDArray[np.generic]:
        if self._files.has(t, c, z):
            return self._files.plane(t, c, z)
        blank = np.zeros((self._layout.size_y, self._layout.size_x), self._layout.dtype)
        blank.flags.writeable = False
        return blank

    def read(self, t: int, c: int, slices: Sequence[int]) -> NDArray[np.generic]:
        if all(self._files.has(t, c, z) for z in slices):
            return self._files.read(t, c, slices)
        return super().read(t, c, slices)

    def verify(self) -> None:
        self._files.verify()

    def close(self) -> None:
        self._files.close()


def _shape(layout: Layout) -> tuple[object, ...]:
    return layout.size_t, layout.size_c, layout.size_z, layout.size_y, layout.size_x, layout.dtype
