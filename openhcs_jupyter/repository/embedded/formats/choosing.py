"""How the right reader of a microscope's folder is chosen."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from openhcs_jupyter.errors import RepositoryError, UsageError
from openhcs_jupyter.repository.embedded.formats.base import Reader
from openhcs_jupyter.repository.embedded.formats.imagexpress import ImageXpress
from openhcs_jupyter.repository.embedded.formats.ometiff import OmeTiff
from openhcs_jupyter.repository.embedded.formats.omezarr import OmeZarr
from openhcs_jupyter.repository.embedded.formats.opera import Opera
from openhcs_jupyter.repository.embedded.formats.pattern import NamePattern, Patterned
from openhcs_jupyter.repository.embedded.formats.yokogawa import Yokogawa

GROUP = "openhcs_jupyter.formats"
_OWN: tuple[type[Reader], ...] = (ImageXpress, Yokogawa, Opera, OmeZarr, OmeTiff)


def readers() -> list[Reader]:
    """Make one of each reader: those of this package, then those that other packages announce."""
    return [*(reader() for reader in _OWN), *_others()]


def choose(folder: Path, *, name: str | None = None, pattern: str | None = None) -> Reader:
    """Return the reader for `folder`: the one that is asked for, or the one that is surest of the folder.

    Parameters
    ----------
    folder
        Of a plate.
    name
        Of the reader, such as ``ImageXpress``, in any case.
    pattern
        Of the names of the images, see `NamePattern`; instead of a reader that knows its own.

    Raises
    ------
    RepositoryError
        If no reader recognises the folder; says what was looked for and what is there. If several are equally sure.
    UsageError
        If no reader has this name, or the pattern cannot be one, or both are given.
    """
    if pattern is not None:
        if name is not None:
            raise UsageError("A format and a pattern exclude each other", "Leave one of them out.")
        return Patterned(NamePattern(pattern))
    known = readers()
    if name is not None:
        return _named(known, name)
    scores = [reader.recognise(folder) for reader in known]
    best = [reader for reader, score in zip(known, scores, strict=True) if score > 0 and score == max(scores)]
    if len(best) == 1:
        return best[0]
    if best:
        listed = " and ".join(f"{reader.name} ({reader.looks_for})" for reader in best)
        raise RepositoryError(
            f"{folder} holds plates of {len(best)} formats: {listed}.",
            f"Import the folder of one of them, or say which one you mean: --format {best[0].name}.",
        )
    looked = "; ".join(f"{reader.name}: {reader.looks_for}" for reader in known)
    raise RepositoryError(
        f"{folder} is not a plate that can be read: it has {_contents(folder)}.",
        f"Looked for {looked}. Images of other names can be imported with --pattern.",
    )


@lru_cache
def reader_of(name: str) -> Reader:
    """Return the reader of a format, for decoding planes of plates that it has read.

    Raises
    ------
    RepositoryError
        If there is none any more.
    """
    if name == Patterned.name:
        return Patterned(NamePattern("{well}"))  # decoding needs no pattern
    for reader in readers():
        if reader.name == name:
            return reader
    raise RepositoryError(
        f"The plate was imported as {name}, and no reader of that format is installed here.",
        "Install the package that brings it, on every machine that runs pipelines.",
    )


def _others() -> list[Reader]:
    return [entry.load()() for entry in entry_points(group=GROUP)]


def _named(known: list[Reader], name: str) -> Reader:
    for reader in known:
        if reader.name.lower() == name.lower():
            return reader
    raise UsageError(f"There is no format {name!r}", f"Formats: {', '.join(reader.name for reader in known)}.")


def _contents(folder: Path, limit: int = 5) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    if not names:
        return "no files"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
