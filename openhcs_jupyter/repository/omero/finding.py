"""Finds what a user names: a plate, or a dataset or image that is taken for one, whole or in part."""

from __future__ import annotations

from typing import Any, NamedTuple

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.address import Kind, Source, parse_name, parse_reference, parse_well_of
from openhcs_jupyter.repository.omero.queries import ask


class Wanted(NamedTuple):
    """What is to be loaded."""

    source: Source
    place: tuple[int, int] | None = None
    """Row and column of the well to which it is narrowed."""
    sample: int | None = None
    """The field to which it is narrowed, by the id of its place in the well."""


def find(session: Any, text: str, context: dict[str, str]) -> Wanted:
    """Find what is named by an id, a name, or a link copied from OMERO.web.

    A well, such as ``drawn/B03``, and an image of a plate stand for their plate, narrowed to them.

    Raises
    ------
    RepositoryError
        If there is no such thing, or several of the name.
    """
    reference = parse_reference(text) or _named(session, text, context)
    if reference is None and (well := parse_well_of(text)) is not None:
        plate = find(session, well[0], context)
        if plate.source.kind == "Plate" and plate.place is None:
            return plate._replace(place=well[1])
    if reference is None:
        wanted = parse_name(text)[0]
        kinds = wanted.lower() if wanted is not None else "plate or dataset"
        raise RepositoryError(
            f"There is no {kinds} {parse_name(text)[1]!r} that you may see.",
            "%openhcs plates lists the plates; an id is never ambiguous. A well is named such as PLATE/B03.",
        )
    kind, number = reference
    if kind in (None, "Plate"):
        return Wanted(Source("Plate", number))
    if kind == "Dataset":
        return Wanted(Source("Dataset", number))
    if kind == "Screen":
        return Wanted(Source("Plate", _of_screen(session, number, context)))
    if kind == "Well":
        found = ask(session, queries.WELL, context, id=number)
        if not found:
            raise RepositoryError(f"There is no well {number} that you may see.", "Name a plate, and --wells.")
        plate, row, column = found[0]
        return Wanted(Source("Plate", plate), (row, column))
    places = ask(session, queries.FIELD, context, id=number)
    if not places:
        return Wanted(Source("Image", number))
    plate, row, column, sample = places[0]
    return Wanted(Source("Plate", plate), (row, column), sample)


def _named(session: Any, text: str, context: dict[str, str]) -> tuple[Kind, int] | None:
    wanted, name = parse_name(text)
    kinds: tuple[Kind, ...] = (wanted,) if wanted is not None else ("Plate", "Dataset")
    for kind in kinds:
        rows = ask(session, queries.NAMED[kind], context, name=name)
        if len(rows) > 1:
            several = ", ".join(f"{number} (group {group})" for number, group in rows)
            raise RepositoryError(
                f"Several {kind.lower()}s are named {name!r}: {several}.",
                f"Name one by its id, such as {kind}:{rows[0][0]}.",
            )
        if rows:
            return kind, int(rows[0][0])
    return None


def _of_screen(session: Any, number: int, context: dict[str, str]) -> int:
    rows = ask(session, queries.PLATES_OF_SCREEN, context, id=number)
    if len(rows) != 1:
        names = ", ".join(f"{one} {name}" for one, name in rows)
        what = f"has {len(rows)} plates: {names}" if rows else "has no plate that you may see"
        raise RepositoryError(f"Screen {number} {what}.", "Name one plate.")
    return int(rows[0][0])
