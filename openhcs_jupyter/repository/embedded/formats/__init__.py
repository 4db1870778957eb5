"""The readers of microscopes' folders, and how the right one is chosen."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.embedded.formats.base import (
    FieldPlace,
    FoundFile,
    FoundPlane,
    FoundPlate,
    PlaneData,
    Progress,
    Reader,
    WellPlace,
)
from openhcs_jupyter.repository.embedded.formats.imagexpress import ImageXpress

GROUP = "openhcs_jupyter.formats"

__all__ = [
    "GROUP",
    "FieldPlace",
    "FoundFile",
    "FoundPlane",
    "FoundPlate",
    "ImageXpress",
    "PlaneData",
    "Progress",
    "Reader",
    "WellPlace",
    "choose",
    "readers",
]


def readers() -> list[Reader]:
    """Make one of each reader: those of this package, then those that other packages announce."""
    return [ImageXpress(), *(entry.load()() for entry in entry_points(group=GROUP))]


def choose(folder: Path) -> Reader:
    """Return the reader that is surest of `folder`.

    Raises
    ------
    RepositoryError
        If no reader recognises it; says what was looked for and what is there.
    """
    known = readers()
    scores = [reader.recognise(folder) for reader in known]
    best = max(range(len(known)), key=scores.__getitem__)
    if scores[best] > 0:
        return known[best]
    looked = "; ".join(f"{reader.name}: {reader.looks_for}" for reader in known)
    raise RepositoryError(
        f"{folder} is not a plate that can be read: it has {_contents(folder)}.", f"Looked for {looked}."
    )


def _contents(folder: Path, limit: int = 5) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    if not names:
        return "no files"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
