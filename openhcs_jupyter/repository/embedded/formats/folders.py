"""Finding the folder of a plate and the files in it, by names alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.embedded.formats.base import FoundFile

_DEPTH = 3
_SHOWN = 3
_TIFF = (".tif", ".tiff")
ZARR_MARKS = (".zgroup", ".zarray", "zarr.json")
"""Files of which one is in each folder of a Zarr hierarchy that is not of chunks."""


def holders(folder: Path, is_marked: Callable[[Collection[str]], bool], depth: int = _DEPTH) -> list[Path]:
    """List the folders that `is_marked` takes by the names of their files.

    `folder` itself wins where it is one; otherwise all within `depth` levels below are listed, and nothing below those.
    """
    files, below = _scan(folder)
    if is_marked(files):
        return [folder]
    found: list[Path] = []
    if depth:
        for child in below:
            found += holders(child, is_marked, depth - 1)
    return found


def the_only(folder: Path, found: Sequence[Path], looks_for: str) -> Path:
    """Return the one folder of those found below `folder`.

    Raises
    ------
    RepositoryError
        If there is none, or several.
    """
    if not found:
        raise RepositoryError(f"{folder} holds no such plate.", f"Looked for {looks_for}.")
    if len(found) > 1:
        shown = "".join(f"\n  {path}" for path in found)
        raise RepositoryError(f"{folder} holds {len(found)} plates:{shown}", "Import them one at a time.")
    return found[0]


def names_in(folder: Path) -> list[str]:
    """List the names of the files in a folder; none where there is no such folder."""
    return _scan(folder)[0] if folder.is_dir() else []


def files_in(root: Path, below: str = "") -> dict[str, FoundFile]:
    """List the files in ``root/below`` by name; none where there is no such folder. Hidden ones are left out."""
    found: dict[str, FoundFile] = {}
    folder = root / below
    if not folder.is_dir():
        return found
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_file():
                stat = entry.stat()
                path = f"{below}/{entry.name}" if below else entry.name
                found[entry.name] = FoundFile(path, stat.st_size, stat.st_mtime_ns)
    return found


def is_tiff(name: str) -> bool:
    """Tell whether a file's name is that of a TIFF file."""
    return name.lower().endswith(_TIFF)


def some(names: Collection[str]) -> str:
    """Name the first of `names`, in order."""
    return ", ".join(sorted(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _scan(folder: Path) -> tuple[list[str], list[Path]]:
    files: list[str] = []
    below: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
            if any(entry.name in ZARR_MARKS for entry in ordered):
                return [], []  # no folder of files
            for entry in ordered:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    below.append(Path(entry.path))
                else:
                    files.append(entry.name)
    except PermissionError:
        # What cannot be looked into is no plate that could be read.
        return [], []
    return files, below
