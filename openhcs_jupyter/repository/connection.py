"""Joining a repository by its URI."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openhcs_jupyter.config import data_dir, load_settings
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.files import partial_of

if TYPE_CHECKING:
    from openhcs_jupyter.repository.base import Repository
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


def connect(
    uri: str | Path | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    password: Callable[[str], str] | None = None,
) -> Repository:
    """Join a repository.

    Parameters
    ----------
    uri
        A folder with an embedded repository, made if absent; ``default`` or ``demo``; ``omero://USER@HOST[:PORT]``;
        None takes what the settings say. ``demo`` is an embedded repository with a synthetic plate, which the first
        call makes.
    progress
        Called while the demo's plate is made, with how much is done and how much there is.
    password
        Asks a user of OMERO, who is named to it, for the password; left out, only a session that is there is joined.

    Raises
    ------
    RepositoryError
        If there is no such repository, or it cannot be used.
    """
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    settings = load_settings()
    where = os.fspath(uri) if uri is not None else settings.repository
    if where == "demo":
        return _demo(data_dir(settings) / "demo", progress)
    if where == "default":
        return EmbeddedRepository(data_dir(settings) / "repository")
    if scheme := _SCHEME.match(where):
        if scheme[1].lower() == "omero":
            from openhcs_jupyter.repository.omero import OmeroRepository

            return OmeroRepository(where, password)
        hint = "Name a folder, default, demo, or omero://USER@HOST."
        raise RepositoryError(f"{where}: there is no kind of repository named {scheme[1]!r}.", hint)
    if not where.strip():
        raise RepositoryError("The name of the repository is empty.", "Name a folder, default or demo.")
    return EmbeddedRepository(where)


def _demo(folder: Path, progress: Callable[[int, int], None] | None) -> EmbeddedRepository:
    """Join the demo; makes and imports its plate if there is none."""
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    repository = EmbeddedRepository(folder)
    if not repository.plates():
        plate = repository.plates_folder / "demo"
        if not plate.exists():
            _make_demo(plate, progress)
        repository.import_plate(plate, name="demo")
    return repository


def _make_demo(plate: Path, progress: Callable[[int, int], None] | None) -> None:
    from openhcs_jupyter.repository.embedded import synthetic

    # Written beside its place and moved, so that a half-made plate is never taken for the demo.
    partial = partial_of(plate) / plate.name
    try:
        synthetic.write_plate(partial, synthetic.DEMO, progress=progress)
        partial.rename(plate)
    except OSError as error:
        if not plate.exists():
            raise RepositoryError(f"The demo's plate cannot be written: {error}.") from error
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)
