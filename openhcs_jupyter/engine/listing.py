"""Lists the runs of a store, without their plans."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from openhcs_jupyter.engine.journal import JournalReader
from openhcs_jupyter.engine.store import RunFolder
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import RunFinished, RunStarted, UnitDone, UnitFailed
from openhcs_jupyter.model import RunStatus
from openhcs_jupyter.repository import Repository

_SUMMARY = "summary.json"


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the list of runs."""

    id: str
    name: str
    plate_id: int
    plate_name: str
    status: RunStatus
    started: str
    units: int
    done: int
    failed: int
    results: str | None


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a run that has ended, beside the length of the journal from which it was made."""

    journal_bytes: int
    summary: RunSummary


def list_runs(repository: Repository) -> list[RunSummary]:
    """List the runs of a repository, the latest first.

    The journal of a run that has ended is read once; its summary is then kept in the run's folder.
    """
    summaries = []
    for folder in run_folders(repository.runs_folder):
        # A folder that was being made when its process ended holds nothing yet.
        with suppress(RunError):
            summaries.append(summary_of(folder))
    return summaries


def summary_of(folder: RunFolder) -> RunSummary:
    """Return the summary of one run.

    Raises
    ------
    RunError
        If the folder holds no run.
    """
    path = folder.path / _SUMMARY
    with suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        if kept.journal_bytes == folder.journal.stat().st_size:
            return kept.summary
    conducted = folder.is_conducted()
    size = folder.journal.stat().st_size if folder.journal.exists() else 0
    summary = _read(folder, conducted)
    if summary.status not in ("running", "interrupted"):
        with suppress(OSError):  # of somebody whose runs others may only read
            folder.write(_SUMMARY, msgspec.json.encode(_Kept(journal_bytes=size, summary=summary)))
    return summary


def runs_that_stay(runs: Path) -> frozenset[str]:
    """Name the runs whose results are not removed for want of room.

    They are of each name and plate the latest run and the latest that was done well, and all that are being conducted;
    and those of which it cannot be told.
    """
    stay: dict[tuple[str, int, bool], str] = {}
    running = set()
    for folder in run_folders(runs):
        try:
            summary = summary_of(folder)
        except RunError:
            running.add(folder.run_id)
            continue
        stay.setdefault((summary.name, summary.plate_id, False), summary.id)
        if summary.status == "done":
            stay.setdefault((summary.name, summary.plate_id, True), summary.id)
        if summary.status == "running":
            running.add(summary.id)
    return frozenset({*stay.values(), *running})


def run_folders(runs: Path) -> list[RunFolder]:
    """List the folders of a store, the latest first."""
    try:
        with os.scandir(runs) as entries:
            names = sorted((entry.name for entry in entries if entry.is_dir()), reverse=True)
    except FileNotFoundError:
        return []
    return [RunFolder(runs / name) for name in names]


def _read(folder: RunFolder, conducted: bool) -> RunSummary:
    """Count what a journal tells of the latest start of a run."""
    record = folder.record()
    units = 0
    done: set[int] = set()
    failed: set[int] = set()
    finished: RunFinished | None = None
    for event in JournalReader(folder.journal).read():
        if isinstance(event, RunStarted):
            units, finished = event.units, None
            done.clear()
            failed.clear()
        elif isinstance(event, UnitDone):
            done.add(event.unit)
        elif isinstance(event, UnitFailed):
            failed.add(event.unit)
        elif isinstance(event, RunFinished):
            finished = event
    return RunSummary(
        id=folder.run_id,
        name=record.name,
        plate_id=record.plate_id,
        plate_name=record.plate_name,
        status=finished.status if finished else "running" if conducted else "interrupted",
        started=record.started,
        units=units,
        done=len(done),
        failed=len(failed),
        results=finished.results if finished else None,
    )
