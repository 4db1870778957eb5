"""Where each result lies in a run's results folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from openhcs_jupyter.model import ResultSpec, Scope, parse_well, well_name
from openhcs_jupyter.repository.base import Place

INDEX = "results.json"


class Group(NamedTuple):
    """Where the group of one result lies."""

    plate: str
    """Folder of the plate."""
    within: str
    """Path below a field's group."""


def group_of(known: Mapping[str, ResultSpec], spec: ResultSpec) -> Group:
    """Say where the pixels of one of the `known` results lie: labels over an image lie in the image's plate."""
    image = known.get(spec.over or "")
    if spec.kind == "labels" and image is not None and image.kind == "image":
        return Group(plate_name(image.name), f"labels/{file_name(spec.name)}")
    return Group(plate_name(spec.name), "")


def plates_of(specs: Sequence[ResultSpec], scope: Scope) -> list[str]:
    """List the folders that the images and labels of one scope lie in."""
    known = {spec.name: spec for spec in specs if spec.kind in ("image", "labels")}
    return list(dict.fromkeys(group_of(known, spec).plate for spec in known.values() if spec.scope == scope))


def scope_of(place: Place) -> Scope:
    """Say how far the results of a place reach."""
    well, field = place
    return "plate" if well is None else "well" if field is None else "field"


def path_of(place: Place) -> str:
    """Return the path of an image's group in its plate.

    Field 1 of ``A01`` is ``A/1/0``, and so is the image of a well whose fields were joined: it is the only one there.
    An image of the whole plate is no plate but stands by itself, in the folder that would be the plate's.
    """
    well, field = place
    return "" if well is None else f"{well_path(well)}/{(field or 1) - 1}"


def title_of(place: Place) -> str:
    """Name a place for people."""
    well, field = place
    return "the plate" if well is None else well if field is None else f"{well} field {field}"


def well_path(well: str) -> str:
    """Return the path of a well's group in a plate: ``A01`` is ``A/1``."""
    row, column = parse_well(well)
    return f"{row_name(row)}/{column + 1}"


def row_name(row: int) -> str:
    """Name a row, counted from 0, by its letters."""
    return well_name(row, 0)[:-2]


def plate_name(result: str) -> str:
    """Name the folder of a result's plate."""
    return f"{file_name(result)}.ome.zarr"


def file_name(name: str) -> str:
    """Turn a result's name into one that file systems and Zarr keys take; different names stay different."""
    # Names are the user's: "a/b", "<lambda>".
    safe = quote(name, safe=" ")
    return f"%2E{safe[1:]}" if safe.startswith(".") else safe


def beside(folder: Path, what: str) -> Path:
    """Name the hidden neighbour of a results folder: ``partial`` or ``replaced``."""
    return folder.with_name(f".{folder.name}.{what}")


def folders(folder: Path) -> list[str]:
    """List the names of the folders in a folder; none if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []
