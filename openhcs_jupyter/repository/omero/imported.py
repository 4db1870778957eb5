"""Imported files of a plate, read where OMERO keeps them: recognised and registered as a plate of files is.

Nobody but the readers of formats knows which file holds which plane. So what they find is held against what OMERO
says of each image, and one plane of the plate is compared with what the server gives, before any file is trusted.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Image, Layout, Plate, well_name
from openhcs_jupyter.repository.base import PixelSource
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.omero.queries import FieldRow, FileRow


class Registered(NamedTuple):
    """An image among the registered files."""

    id: int
    version: str


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
) -> dict[int, Registered]:
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
    for place, rows in of_well.items():
        there = wells.get(place, ())
        if len(there) != len(rows):
            raise RepositoryError(f"its files have {len(there)} fields in a well in which OMERO has {len(rows)}")
        for row, field in zip(sorted(rows, key=lambda row: row.position), there, strict=True):
            stack = field.image("stack")
            if stack is None or _shape(stack.layout) != _shape(images[row.image].layout):
                raise RepositoryError(f"its files have other images than OMERO in {well_name(*place)}")
            registered[row.image] = Registered(stack.id, stack.version)
    return registered


def open_registered(repository: EmbeddedRepository, image: Image, registered: Registered) -> PixelSource:
    """Open an image's files."""
    return repository.open(msgspec.structs.replace(image, id=registered.id, version=registered.version))


def _shape(layout: Layout) -> tuple[object, ...]:
    return layout.size_t, layout.size_c, layout.size_z, layout.size_y, layout.size_x, layout.dtype
