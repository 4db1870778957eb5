"""What saved results are: the values that `results.json` holds, and how they are found again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Scope, parse_well, well_name
from openhcs_jupyter.repository.base import Place
from openhcs_jupyter.repository.embedded.layout import INDEX, beside, folders, path_of, title_of

_REPLACED = re.compile(r"^\.(.+)\.replaced$")


class PixelResult(msgspec.Struct, frozen=True, kw_only=True):
    """One image or label result that was saved."""

    name: str
    kind: Literal["image", "labels"]
    scope: Scope
    path: str
    """Of its plate, relative to the results folder; of an image of the whole plate, the image's own."""
    within: str
    """Path below an image's group: empty for images, ``labels/<name>`` for labels over an image."""
    channels: tuple[str, ...]
    over: str | None
    """Of labels: the image that they lie over."""
    fields: tuple[Place, ...]
    """Sorted by row, column and number."""

    @property
    def wells(self) -> tuple[str, ...]:
        """Names of the wells that have it."""
        return tuple(dict.fromkeys(well for well, _ in self.fields if well is not None))


class TableResult(msgspec.Struct, frozen=True, kw_only=True):
    """One table that was saved."""

    name: str
    path: str
    """Relative to the results folder."""
    rows: int
    columns: tuple[str, ...]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What a results folder holds."""

    run_id: str
    run_name: str
    plate_id: int
    plate_name: str
    saved: str
    """When it was published, ISO 8601 in UTC."""
    images: tuple[PixelResult, ...]
    labels: tuple[PixelResult, ...]
    tables: tuple[TableResult, ...]
    documents: tuple[str, ...]
    fields: tuple[Place, ...]
    """All places of the run that have images or labels, sorted."""
    folder: str = ""
    """Where it lies; not kept in the folder itself, so that it can be moved."""

    def group(self, name: str, well: str | None = None, field: int = 1) -> Path:
        """Return the folder of one multiscale group, which zarr, ome-zarr and napari open.

        Parameters
        ----------
        name
            Of an image or label result.
        well
            Left out where the result is one for the plate.
        field
            Counted from 1; means nothing where the result is one for the well or the plate.

        Raises
        ------
        RepositoryError
            If there is no such result, or not in this place; lists what there is.
        """
        pixels = {result.name: result for result in (*self.images, *self.labels)}
        if name not in pixels:
            raise RepositoryError(
                f"Run {self.run_id} saved no image or labels {name!r}.", f"It saved: {', '.join(pixels) or 'none'}."
            )
        result = pixels[name]
        place: Place = (None, None)
        if result.scope != "plate":
            place = (well_name(*parse_well(well)) if well else None, field if result.scope == "field" else None)
        if place not in result.fields:
            raise RepositoryError(
                f"Run {self.run_id} saved no {name!r} of {title_of(place)}.",
                f"Wells with {name!r}: {', '.join(result.wells)}.",
            )
        return Path(self.folder, result.path, path_of(place), result.within)


def open_results(folder: Path) -> Results:
    """Read what a results folder holds.

    Parameters
    ----------
    folder
        As `OmeZarrWriter` published it, ``<results>/<run id>``.

    Raises
    ------
    RepositoryError
        If no whole results are there.
    """
    for place in (folder, beside(folder, "replaced")):
        try:
            found = msgspec.json.decode((place / INDEX).read_bytes(), type=Results)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.DecodeError) as error:
            raise RepositoryError(f"The results in {place} cannot be read: {error}", "Run it again.") from error
        return msgspec.structs.replace(found, folder=str(place))
    raise RepositoryError(f"There are no results in {folder}.", "Results are there once a run with --save is done.")


def list_results(folder: Path) -> list[Results]:
    """List the whole results in a repository's folder of results, the newest first."""
    names = {_REPLACED.sub(r"\1", name) for name in folders(folder)}
    # A folder without an index, such as one that is being gathered, is no results folder.
    found = [
        open_results(folder / name)
        for name in names
        if not name.startswith(".")
        and any((place / INDEX).exists() for place in (folder / name, beside(folder / name, "replaced")))
    ]
    return sorted(found, key=lambda results: results.saved, reverse=True)
