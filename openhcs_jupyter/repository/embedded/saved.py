"""What saved results are: the values that `results.json` holds, and how they are found again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import parse_well, well_name
from openhcs_jupyter.repository.embedded.layout import INDEX, beside, field_path, folders

_REPLACED = re.compile(r"^\.(.+)\.replaced$")


class PixelResult(msgspec.Struct, frozen=True, kw_only=True):
    """One image or label result that was saved."""

    name: str
    kind: Literal["image", "labels"]
    path: str
    """Of its plate, relative to the results folder."""
    within: str
    """Path below a field's group: empty for images, ``labels/<name>`` for labels over an image."""
    channels: tuple[str, ...]
    over: str | None
    """Of labels: the image that they lie over."""
    fields: tuple[tuple[str, int], ...]
    """``(well, field)``, sorted by row, column and number."""

    @property
    def wells(self) -> tuple[str, ...]:
        """Names of the wells that have it."""
        return tuple(dict.fromkeys(well for well, _ in self.fields))


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
    fields: tuple[tuple[str, int], ...]
    """All ``(well, field)`` of the run, sorted."""
    folder: str = ""
    """Where it lies; not kept in the folder itself, so that it can be moved."""

    def group(self, name: str, well: str, field: int) -> Path:
        """Return the folder of one field's multiscale group, which zarr, ome-zarr and napari open.

        Parameters
        ----------
        name
            Of an image or label result.
        well, field
            The field, counted from 1.

        Raises
        ------
        RepositoryError
            If there is no such result, or not in this field; lists what there is.
        """
        pixels = {result.name: result for result in (*self.images, *self.labels)}
        if name not in pixels:
            raise RepositoryError(
                f"Run {self.run_id} saved no image or labels {name!r}.", f"It saved: {', '.join(pixels) or 'none'}."
            )
        result = pixels[name]
        place = (well_name(*parse_well(well)), field)
        if place not in result.fields:
            raise RepositoryError(
                f"Run {self.run_id} saved no {name!r} of well {place[0]}, field {field}.",
                f"Wells with {name!r}: {', '.join(result.wells)}.",
            )
        return Path(self.folder, result.path, field_path(*place), result.within)


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
