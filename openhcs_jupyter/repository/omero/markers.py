"""The marker by which everything that a run makes in OMERO is known, and found again: to replace, to delete, to trace.

It is the description, or the name, of each object: ``openhcs-jupyter RUN`` and what it is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.deleting import delete
from openhcs_jupyter.repository.omero.queries import ask

_PREFIX = "openhcs-jupyter"
_ATTRIBUTES = {
    "Plate": "description", "Dataset": "description", "Image": "description", "Roi": "name",
    "FileAnnotation": "description", "MapAnnotation": "description", "OriginalFile": "name",
}  # fmt: skip
_MOST = 1000
"""Deleted in one command."""


def marker_of(run: str) -> str:
    """Return what everything that a run makes is known by."""
    return f"{_PREFIX} {run}"


def run_of(text: str | None) -> str | None:
    """Return the id of the run whose marker a text begins with."""
    match = re.match(rf"{_PREFIX} (\S+)(?: |$)", text or "")
    return match[1] if match else None


def table_file(title: str, part: str, run: str) -> str:
    """Name the file of a table, for people and for `marked`; where it lies is the server's affair."""
    return f"{title}{part} ({marker_of(run)}).h5"


def documents_path(run: str) -> str:
    """Return what is kept as the path of a run's documents."""
    return f"{marker_of(run)}/"


def marked(session: Any, kind: str, run: str, context: dict[str, str], what: str = "") -> dict[int, int]:
    """Find what a run has made of one kind.

    Parameters
    ----------
    session
        The service factory.
    kind
        Of OMERO's model.
    run
        Its id.
    context
        The groups in which it is looked for.
    what
        What stands behind the run's id in the marker, or a file's title; empty finds all.

    Returns
    -------
    dict
        The group of each, by id.
    """
    marker = marker_of(run)
    if kind == "OriginalFile":
        tables = ask(session, queries.MARKED.format(kind=kind, attribute="name"), context, text=f"%({marker})%")
        documents = ask(session, queries.MARKED.format(kind=kind, attribute="path"), context, text=documents_path(run))
        found = {number: group for number, group, path in documents if path == documents_path(run) and not what}
        starts = (f"{what} (", f"{what}, part ") if what else ("",)
        return found | {n: group for n, group, name in tables if f"({marker})" in name and name.startswith(starts)}
    query = queries.MARKED.format(kind=kind, attribute=_ATTRIBUTES[kind])
    rows = ask(session, query, context, text=f"{marker} {what}" if what else f"{marker}%")
    # In "like", an underscore stands for any character; what was found is therefore compared once more.
    if what:
        return {number: group for number, group, text in rows if text == f"{marker} {what}"}
    return {number: group for number, group, text in rows if text == marker or text.startswith(f"{marker} ")}


def registered(session: Any, run: str, context: dict[str, str]) -> list[str]:
    """List the OME-Zarr folders of the images that a run has made."""
    rows = ask(session, queries.REGISTERED, context, text=f"{marker_of(run)} %")
    return [path for description, path in rows if path and run_of(description) == run]


def delete_marked(session: Any, run: str, context: dict[str, str]) -> dict[str, int]:
    """Delete from OMERO exactly what a run has made.

    Returns
    -------
    dict
        How many objects of each kind were deleted.
    """
    deleted: dict[str, int] = {}
    for kind in _ATTRIBUTES:
        by_group: dict[int, list[int]] = defaultdict(list)
        for number, group in marked(session, kind, run, context).items():
            by_group[group].append(number)
        for group, ids in by_group.items():
            delete_all(session, kind, ids, {"omero.group": str(group)})
            deleted[kind] = deleted.get(kind, 0) + len(ids)
    return deleted


def delete_all(session: Any, kind: str, ids: list[int], context: dict[str, str]) -> None:
    """Delete objects of one kind, some a command."""
    for start in range(0, len(ids), _MOST):
        delete(session, {kind: ids[start : start + _MOST]}, context)
