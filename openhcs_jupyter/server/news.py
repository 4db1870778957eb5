"""What jobs tell of themselves: reads the journals of a job's process and of its run, from where it stopped."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import msgspec

from openhcs_jupyter.events import RunFinished, RunStarted, UnitDone, UnitFailed
from openhcs_jupyter.server.accounts import Account
from openhcs_jupyter.server.folders import read_part
from openhcs_jupyter.server.model import ACTIVE, ENDED, RESTING, AnyJobEvent, NotCompiled, Planned, StateChanged
from openhcs_jupyter.server.orders import JOURNAL, read_events
from openhcs_jupyter.server.queue import Record, can_be_kept

_PART = 512 << 10
_LONGEST_TEXT = 4000
"""Of what is kept of a job beside its events, many of which are told at once."""
_MOST_LINES = 4096
"""That are read of a journal at a time, so that other jobs are looked at in between."""


def news_of(record: Record, folder: Path, owner: Account) -> tuple[Record, list[AnyJobEvent]]:
    """Read what a job's process and its run have written since the last time.

    Parameters
    ----------
    record
        The job, as far as it is known.
    folder
        Of the job.
    owner
        With whose rights the journals are read.

    Returns
    -------
    record
        The job as it is now; equal to the one given if nothing was written.
    events
        What there is to tell, in order.
    """
    events: list[AnyJobEvent] = []
    length, told = _new_events(folder / JOURNAL, record.journal_at, owner)
    for event in told:
        if isinstance(event, Planned):
            if not _is_place(event.folder):
                continue
            record = msgspec.structs.replace(
                record,
                folder=event.folder,
                plate_name=event.plate_name[:_LONGEST_TEXT],
                plate=str(event.plate_id),
                units=event.units,
            )
            events.append(event)
        elif isinstance(event, NotCompiled):
            events.append(event)
        elif isinstance(event, StateChanged) and event.attempt == record.attempts:
            if event.state in ENDED | RESTING:
                record = msgspec.structs.replace(
                    record, ending=event.state, ending_message=event.message[:_LONGEST_TEXT]
                )
            elif event.state in ACTIVE and event.state != record.state:
                record = msgspec.structs.replace(record, state=event.state)
                events.append(event)
    record = msgspec.structs.replace(record, journal_at=record.journal_at + length)
    if record.folder:
        length, told = _new_events(Path(record.folder) / JOURNAL, record.run_journal_at, owner)
        record = msgspec.structs.replace(record, run_journal_at=record.run_journal_at + length)
        for event in told:
            if not isinstance(event, StateChanged | Planned | NotCompiled):
                record = _counted(record, event)
                events.append(event)
    return record, events


def _new_events(path: Path, at: int, owner: Account) -> tuple[int, list[AnyJobEvent]]:
    """Read the whole lines that a journal has from a place on: their length, and the events among them."""
    try:
        data, size_of_all = read_part(path, at, _PART, owner)
    except OSError:
        return 0, []  # not there yet, or no longer
    length, events, lines = 0, [], 0
    for size, event in islice(read_events(data), _MOST_LINES):
        length += size
        lines += 1
        if event is not None and can_be_kept(event):
            events.append(event)
    if not events and (lines == _MOST_LINES or (not lines and len(data) == _PART)):
        length = size_of_all - at  # no journal of ours
    return length, events


def _is_place(folder: str) -> bool:
    """Tell whether a job may say that its run is in a folder: the system knows no path that is otherwise."""
    return folder.startswith("/") and "\0" not in folder and len(folder) < _LONGEST_TEXT


def _counted(record: Record, event: AnyJobEvent) -> Record:
    """Keep in a job what an event of its run tells."""
    if isinstance(event, RunStarted):
        return msgspec.structs.replace(record, units=event.units, done=0, failed=0)
    if isinstance(event, UnitDone):
        return msgspec.structs.replace(record, done=record.done + 1, deaths=record.deaths if event.reused else 0)
    if isinstance(event, UnitFailed):
        return msgspec.structs.replace(record, failed=record.failed + 1)
    if isinstance(event, RunFinished):
        return msgspec.structs.replace(record, results=event.results)
    return record
