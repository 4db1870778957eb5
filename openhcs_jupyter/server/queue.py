"""The server's memory: jobs, their events and payloads, owners' shares, what is shown, tokens; one SQLite file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from openhcs_jupyter.server.model import ENDED, AnyJobEvent, Job, JobEvent, JobFacts, JobState, Payload, StateChanged
from openhcs_jupyter.server.protocol import MOST_REPLY_BYTES

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL,
    owner TEXT NOT NULL,
    run TEXT NOT NULL,
    state TEXT NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (owner, key)
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE INDEX IF NOT EXISTS jobs_by_run ON jobs (run);
CREATE TABLE IF NOT EXISTS payloads (job INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS events (
    job INTEGER NOT NULL, number INTEGER NOT NULL, event BLOB NOT NULL, PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shares (owner TEXT PRIMARY KEY, used REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS shows (job TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tokens (hash TEXT PRIMARY KEY, owner TEXT NOT NULL) STRICT;
"""
_MOST_EVENT_BYTES = MOST_REPLY_BYTES // 2
_SELECT = "SELECT number, body FROM jobs "


class Record(JobFacts, frozen=True, kw_only=True):
    """What the server keeps of a job beside its payload and events."""

    number: int = 0
    """Order of submission."""
    wanted: int | None = None
    """Workers that the options ask for."""
    device: str = "auto"
    """What the options ask for."""
    deaths: int = 0
    """Processes that ended without a word since a unit was done."""
    asked: str = ""
    """``cancel`` or ``park``, while its process has not ended."""
    ending: JobState | Literal[""] = ""
    """How its process said that it stands, before it has ended itself."""
    ending_message: str = ""
    not_before: float = 0.0
    """When it may be started again."""
    leased: float = 0.0
    """When its lease began."""
    seat: str = ""
    """Mark of its process and all that come from it."""
    pid: int = 0
    pid_start: int = 0
    boot: str = ""
    journal_at: int = 0
    """How far its process's journal is read, in bytes."""
    run_journal_at: int = 0
    """How far its run's journal is read."""

    def job(self, ahead: int | None = None) -> Job:
        """Return the job as its owner sees it."""
        facts = {name: getattr(self, name) for name in JobFacts.__struct_fields__}
        return Job(**facts, ahead=ahead, stopping=bool(self.asked))


_encode = msgspec.msgpack.Encoder().encode
_body = msgspec.msgpack.Decoder(Record)
_payload = msgspec.msgpack.Decoder(Payload)
_event = msgspec.msgpack.Decoder(AnyJobEvent)


def can_be_kept(event: AnyJobEvent) -> bool:
    """Tell whether an event's values can be written down: a job may tell of numbers that have no end."""
    try:
        _encode(event)
    except OverflowError:
        return False
    return True


class Queue:
    """All jobs. Used by one thread.

    What a method did outlives the process from when it returns, and the machine from the next `settle` on.

    Parameters
    ----------
    path
        The SQLite file; made, readable by its owner only, if absent.
    """

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        self.is_settled = True
        """Whether a machine that loses power now would lose nothing but what `learn` has kept."""
        self._told: list[tuple[Record, list[JobEvent]]] = []
        self._depth = 0
        self._live: dict[int, Record] | None = None
        """Jobs that have not ended, by their numbers; None where that must be read anew."""
        self._held: dict[str, int] | None = None
        """Bytes of the payloads of each owner's jobs; None where that must be counted anew."""

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes within whole or not at all; what was told within is told when they are."""
        if self._depth:
            yield
            return
        self._depth = 1
        kept = len(self._told)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
            self.is_settled = False
        except BaseException:
            del self._told[kept:]
            self._live = self._held = None
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0

    def settle(self) -> None:
        """Bring everything to the disk; done before anything is promised to anybody, once for many changes.

        Raises
        ------
        OSError
            If it cannot be.
        """
        if self.is_settled:
            return
        log = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(log)
        finally:
            os.close(log)
        self.is_settled = True

    def take_told(self) -> list[tuple[Record, list[JobEvent]]]:
        """Return, once, the events that were added, for those who follow."""
        told, self._told = self._told, []
        return told

    def add(self, record: Record, payload: Payload) -> Record:
        """Add a job, or return the one that its owner has submitted with this key before."""
        with self.transaction():
            there = self.by_key(record.owner, record.key)
            if there is not None:
                return there
            cursor = self._db.execute(
                "INSERT INTO jobs (id, key, owner, run, state, body) VALUES (?, ?, ?, ?, ?, ?)",
                (record.id, record.key, record.owner, record.run, record.state, _encode(record)),
            )
            assert cursor.lastrowid is not None
            added = msgspec.structs.replace(record, number=cursor.lastrowid)
            data = _encode(payload)
            self._db.execute("INSERT INTO payloads VALUES (?, ?)", (added.number, data))
            if self._held is not None:
                self._held[record.owner] = self._held.get(record.owner, 0) + len(data)
            return self.note(added, [StateChanged(time=record.submitted, state=record.state)])

    def change(self, record: Record, **changes: Any) -> Record:
        """Keep a job's new values; a new state becomes an event."""
        changed = msgspec.structs.replace(record, **changes)
        events = []
        if changed.state != record.state:
            events.append(
                StateChanged(time=time.time(), state=changed.state, message=changed.message, attempt=changed.attempts)
            )
        return self.note(changed, events)

    def note(self, record: Record, events: Sequence[AnyJobEvent]) -> Record:
        """Keep a job as it is now, with what happened to it."""
        with self.transaction():
            numbered = [JobEvent(record.events + place, event) for place, event in enumerate(events, 1)]
            record = msgspec.structs.replace(record, events=record.events + len(events))
            self._db.executemany(
                "INSERT INTO events VALUES (?, ?, ?)",
                [(record.number, one.number, _encode(one.event)) for one in numbered],
            )
            self._db.execute(
                "UPDATE jobs SET state = ?, run = ?, body = ? WHERE number = ?",
                (record.state, record.run, _encode(record), record.number),
            )
            if numbered:
                self._told.append((record, numbered))
            if record.state in ENDED:
                self._unended.pop(record.number, None)
            else:
                self._unended[record.number] = record
            return record

    def learn(self, record: Record, events: Sequence[AnyJobEvent]) -> Record:
        """Keep what a job's journals tell. It stands there as well, so nobody waits for the disk."""
        settled = self.is_settled
        record = self.note(record, events)
        self.is_settled = settled
        return record

    def find(self, job: str) -> Record | None:
        """Return a job by its id, or its run's."""
        return self._one("WHERE id = ?", job) or self._one("WHERE run = ? ORDER BY number DESC LIMIT 1", job)

    def by_key(self, owner: str, key: str) -> Record | None:
        """Return the job that an owner has submitted with a key."""
        return self._one("WHERE owner = ? AND key = ?", owner, key)

    def jobs(
        self, owner: str | None, states: Iterable[str] = (), *, before: int | None = None, limit: int = -1
    ) -> list[Record]:
        """List jobs, the latest first; of all owners where `owner` is None."""
        where, values = ["1"], list[object]()
        if owner is not None:
            where.append("owner = ?")
            values.append(owner)
        wanted = list(states)
        if wanted:
            where.append(f"state IN ({', '.join('?' * len(wanted))})")
            values += wanted
        if before is not None:
            where.append("number < ?")
            values.append(before)
        return self._many(f"WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?", *values, limit)

    def waiting(self) -> list[Record]:
        """List the queued jobs of all owners, the earliest first."""
        return self.unended("queued")

    def unended(self, *states: str, owner: str | None = None) -> list[Record]:
        """List jobs that have not ended, of some states or all, the earliest first."""
        return [
            record
            for record in self._unended.values()
            if (not states or record.state in states) and (owner is None or record.owner == owner)
        ]

    def counts(self, owner: str | None = None) -> dict[str, int]:
        """Count jobs by their state."""
        where, values = ("WHERE owner = ?", (owner,)) if owner is not None else ("", ())
        return dict(self._db.execute(f"SELECT state, count(*) FROM jobs {where} GROUP BY state", values))  # noqa: S608 - the names are our own

    @property
    def _unended(self) -> dict[int, Record]:
        if self._live is None:
            places = ", ".join("?" * len(ENDED))
            found = self._many(f"WHERE state NOT IN ({places}) ORDER BY number", *ENDED)
            self._live = {record.number: record for record in found}
        return self._live

    def ended_before(self, when: float, limit: int) -> list[Record]:
        """List jobs that ended before a time, in seconds since the epoch; the earliest that were submitted first."""
        found: list[Record] = []
        for number, body in self._db.execute(f"{_SELECT} ORDER BY number"):
            record = msgspec.structs.replace(_body.decode(body), number=number)
            if record.submitted >= when or len(found) >= limit:
                break
            if record.state in ENDED and (record.ended or record.submitted) < when:
                found.append(record)
        return found

    def first_ended(self, owner: str, limit: int) -> list[Record]:
        """List the jobs of an owner that have ended, the earliest that were submitted first."""
        places = ", ".join("?" * len(ENDED))
        return self._many(f"WHERE owner = ? AND state IN ({places}) ORDER BY number LIMIT ?", owner, *ENDED, limit)

    def held(self, owner: str) -> int:
        """Return how many bytes the payloads of an owner's jobs have."""
        if self._held is None:
            told = "SELECT owner, sum(length(payload)) FROM payloads JOIN jobs ON number = job GROUP BY owner"
            self._held = dict(self._db.execute(told))
        return self._held.get(owner, 0)

    def forget(self, record: Record) -> None:
        """Remove a job that has ended, with its payload and its events."""
        with self.transaction():
            self._db.execute("DELETE FROM events WHERE job = ?", (record.number,))
            told = self._db.execute("DELETE FROM payloads WHERE job = ? RETURNING length(payload)", (record.number,))
            for (size,) in told.fetchall():
                if self._held is not None:
                    self._held[record.owner] = self._held.get(record.owner, 0) - size
            self._db.execute("DELETE FROM jobs WHERE number = ?", (record.number,))

    def payload(self, record: Record) -> Payload:
        """Return what a job does."""
        (data,) = self._db.execute("SELECT payload FROM payloads WHERE job = ?", (record.number,)).fetchone()
        return _payload.decode(data)

    def events(self, record: Record, after: int, limit: int) -> tuple[JobEvent, ...]:
        """Return a job's events after a number: as many as one reply holds."""
        rows = self._db.execute(
            "SELECT number, event FROM events WHERE job = ? AND number > ? ORDER BY number LIMIT ?",
            (record.number, after, limit),
        )
        found: list[JobEvent] = []
        size = 0
        for number, event in rows:
            size += len(event)
            if found and size > _MOST_EVENT_BYTES:
                break
            found.append(JobEvent(number, _event.decode(event)))
        return tuple(found)

    def shares(self) -> dict[str, float]:
        """Return how many core-seconds each owner has been charged."""
        return dict(self._db.execute("SELECT owner, used FROM shares"))

    def charge(self, owner: str, used: float) -> None:
        """Set what an owner has been charged."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO shares VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET used = excluded.used",
                (owner, used),
            )

    def shows(self) -> list[bytes]:
        """Return what was kept of the jobs that are shown."""
        return [body for (body,) in self._db.execute("SELECT body FROM shows")]

    def keep_show(self, job: str, body: bytes | None) -> None:
        """Keep something of a job that is shown; None forgets it."""
        with self.transaction():
            self._db.execute("DELETE FROM shows WHERE job = ?", (job,))
            if body is not None:
                self._db.execute("INSERT INTO shows VALUES (?, ?)", (job, body))

    def tokens(self) -> dict[str, str]:
        """Return the owners of tokens by their tokens' hashes."""
        return dict(self._db.execute("SELECT hash, owner FROM tokens"))

    def set_token(self, owner: str, digest: str) -> None:
        """Keep the hash of an owner's token; an earlier one no longer counts."""
        with self.transaction():
            self._db.execute("DELETE FROM tokens WHERE owner = ?", (owner,))
            self._db.execute("INSERT INTO tokens VALUES (?, ?)", (digest, owner))

    def _one(self, where: str, *values: object) -> Record | None:
        found = self._many(where, *values)
        return found[0] if found else None

    def _many(self, where: str, *values: object) -> list[Record]:
        return [
            msgspec.structs.replace(_body.decode(body), number=number)
            for number, body in self._db.execute(_SELECT + where, values)
        ]
