"""Finds the run that made something in OMERO, and what is kept of it there."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import RunRecord
from openhcs_jupyter.repository.base import Trace
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.address import Source, parse_reference
from openhcs_jupyter.repository.omero.annotations import DOCUMENTS, NAMESPACE
from openhcs_jupyter.repository.omero.finding import find
from openhcs_jupyter.repository.omero.markers import marker_of, run_of
from openhcs_jupyter.repository.omero.queries import ask

_RUN = re.compile(r"\d{8}-\d{6}\.\d+-.+")
_BLOCK = 1 << 20


class _Provenance(msgspec.Struct, frozen=True):
    run: RunRecord


def trace(session: Any, made: str, context: dict[str, str]) -> Trace:
    """Find the run that made something, by an id, a name or a link, or a run by its id.

    A plate or image that no run has made stands for the last run that read it.

    Raises
    ------
    RepositoryError
        If there is no such thing, or no run has to do with it.
    """
    runs = [made] if _RUN.fullmatch(made) else _runs_of(session, made, context)
    if not runs:
        raise RepositoryError(f"No run has made {made}, or anything of it.", "%openhcs runs lists runs.")
    marker = marker_of(runs[0])
    provenance = _document(session, f"{marker} provenance.json", context)
    plan = _document(session, f"{marker} plan.json", context)
    if provenance is None or plan is None:
        raise RepositoryError(f"OMERO has no provenance of run {runs[0]}: it has not ended, or somebody removed it.")
    record = msgspec.json.decode(provenance, type=_Provenance).run
    return Trace(record=record, plan=plan, others=tuple(runs[1:]))


def _runs_of(session: Any, made: str, context: dict[str, str]) -> list[str]:
    """List the runs of something, the one that made it first, then those that read it, the newest first."""
    reference = parse_reference(made)
    wanted = find(session, made, context)
    looked = [wanted.source]
    if reference is not None and reference[0] == "Image":
        looked.insert(0, Source("Image", reference[1]))
    runs: list[str | None] = []
    for source in looked:
        found = ask(session, queries.DESCRIPTION[source.kind], context, id=source.id)
        runs += [run_of(text) for _, text in found]
    for source in looked:
        rows = ask(session, queries.RUNS_OF.format(kind=source.kind), context, id=source.id, ns=NAMESPACE)
        runs += [run_of(text) for _, text in rows]
    return list(dict.fromkeys(run for run in runs if run))


def _document(session: Any, marker: str, context: dict[str, str]) -> bytes | None:
    rows = ask(session, queries.DOCUMENT, context, ns=DOCUMENTS, text=marker)
    if not rows:
        return None
    number, size = rows[0]
    store = session.createRawFileStore()
    try:
        store.setFileId(number, context)
        return b"".join(store.read(start, min(_BLOCK, size - start)) for start in range(0, size, _BLOCK))
    finally:
        store.close()
