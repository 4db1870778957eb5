"""What jobs tell of themselves: reads the journals of a job's process and of its run, from where it stopped."""

from __future__ import annotations

from pathlib import Path

import msgspec

from openhcs_jupyter.events import RunFinished, RunStarted, UnitDone, UnitFailed
from openhcs_jupyter.server.accounts import Account
from openhcs_jupyter.server.folders import read_part
from openhcs_jupyter.server.model import ACTIVE, ENDED, RESTING, AnyJobEvent, NotCompiled, Planned, StateChanged
from openhcs_jupyter.server.orders import JOURNAL, read_events
from openhcs_jupyter.server.queue import Record

_PART = 512 << 10


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
            record = msgspec.structs.replace(
                record, folder=event.folder, plate_name=event.plate_name, plate=str(event.plate_id), units=event.units
            )
            events.append(event)
        elif isinstance(event, NotCompiled):
            events.append(event)
        elif isinstance(event, StateChanged) and event.attempt == record.attempts:
            if event.state in ENDED | RESTING:
                record = msgspec.structs.replace(record, ending=event.state, ending_message=event.message)
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
        data, _ = read_part(path, at, _PART, owner)
    except OSError:
        return 0, []  # not there yet, or no longer
    length, events = 0, []
    for size, event in read_events(data):
        length += size
        if event is not None:
            events.append(event)
    if not length and len(data) == _PART:
        length = len(data)  # no journal of ours
    return length, events


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
