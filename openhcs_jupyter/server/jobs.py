"""The life of jobs: started with a lease, followed, stopped, found again, taken up again."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openhcs_jupyter.errors import OpenHCSError, UsageError
from openhcs_jupyter.server import limits, processes
from openhcs_jupyter.server.accounts import Account, acting_as
from openhcs_jupyter.server.folders import Folders, read_part
from openhcs_jupyter.server.job import CANCEL, PARK, SHOW_STACK
from openhcs_jupyter.server.leases import Machine, leased_payload
from openhcs_jupyter.server.logins import Logins
from openhcs_jupyter.server.model import ACTIVE, ENDED, RESTING, JobState, Payload, Planned
from openhcs_jupyter.server.news import news_of
from openhcs_jupyter.server.orders import Orders, write_orders
from openhcs_jupyter.server.queue import Queue, Record
from openhcs_jupyter.server.schedule import Lease, Waiting, decide, first_charge
from openhcs_jupyter.server.seats import Seats
from openhcs_jupyter.server.settings import ServerSettings
from openhcs_jupyter.server.shows import Shows
from openhcs_jupyter.server.watching import Watch
from openhcs_jupyter.topology import Topology

_GRACE_S = 10.0
"""A job that is asked to stop has so long."""
_LEAVING_S = 10.0
"""So has the process of a job that has ended."""
_DRY_S = 600.0
"""And one that only compiles, since it holds no lease."""
_BEGINNING_S = 30.0
"""Within so long a process says that it has begun with its job; else another one gets it."""
_STACK_S = 1.0
"""So long it has to write down where it is stuck."""
_WATCH_S = 1.0
_COMING_S = 900.0
"""An owner who came so lately may come again soon."""
_BACKOFF_S = (0.0, 1.0, 3.0)
_MOST_DEATHS = len(_BACKOFF_S)
_FULL_BYTES = 16 << 20
_LONGEST_NAME = 256
_AT_REST: dict[str, Any] = {
    "workers": 0, "devices": (), "asked": "", "ending": "", "ending_message": "", "seat": "", "pid": 0
}  # fmt: skip
"""What is kept of the process of a job that has none."""


class Jobs:
    """All jobs of one server. Used by one thread."""

    def __init__(
        self,
        settings: ServerSettings,
        queue: Queue,
        folders: Folders,
        seats: Seats,
        topology: Topology,
        account_of: Callable[[str], Account],
        logins: Logins | None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._folders = folders
        self._seats = seats
        self._account_of = account_of
        self._logins = logins
        self._machine = Machine(topology, settings.max_workers, settings.limits)
        self._active: dict[str, Record] = {}
        self._kill_at: dict[str, float] = {}
        self._begins_by: dict[str, float] = {}
        """When processes must have said that they have begun."""
        self._watched = 0.0
        self._dirty = True
        self._coming: dict[str, float] = {}
        """When owners came last."""
        self.holds = False
        """No job is started: the server is about to stop."""
        self.shows = Shows(settings, queue, folders, seats, account_of)
        self.watch = Watch()
        """Tells when there may be news of jobs."""

    @property
    def active(self) -> Mapping[str, Record]:
        """Jobs that have a process, by their ids."""
        return self._active

    @property
    def cores(self) -> int:
        """Cores that are leased at most."""
        return self._machine.cores

    def take_up(self) -> None:
        """Find the processes of an earlier server's jobs, and end those that belong to none."""
        wanted = self.shows.take_up()
        for record in self._queue.unended(*ACTIVE):
            try:
                self._account_of(record.owner)
            except UsageError as error:
                self._give_up(record, f"{error.message} {error.hint}")
                continue
            self._active[record.id] = record
            wanted.add(record.seat)
            for folder in self._places(record):
                self.watch.add(folder, self._account_of(record.owner))
            self.watch.follow(_process_of(record))
            if record.asked:
                self._signal(record)
        mark = self._folders.mark()
        for seat in {seat for _, seat in processes.seats() if seat.startswith(f"{mark}.")} - wanted:
            processes.end_all(seat)

    def _give_up(self, record: Record, why: str) -> None:
        """End the process of a job whose owner is not served any more, and park the job."""
        _end_processes(record)
        self._queue.change(record, state="parked", message=why, **_AT_REST)

    def submit(self, owner: str, key: str, payload: Payload, priority: int) -> Record:
        """Add a job, or return the one that the owner has submitted with this key before."""
        now = time.time()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
        job = f"{stamp}-{os.urandom(4).hex()}"
        options = payload.options
        record = Record(
            id=job,
            key=key,
            owner=owner,
            run=f"{stamp}.{int(now * 1000) % 1000:03d}-{payload.name}-{job[-4:]}",
            state="queued",
            name=payload.name,
            plate=(options.plate or "")[:_LONGEST_NAME],
            priority=priority,
            wanted=options.workers,
            device=options.device,
            dry_run=options.dry_run,
            submitted=now,
        )
        with self._queue.transaction():
            self._give_start(owner)
            added = self._queue.add(record, payload)
            if (options.view or payload.viewers) and not options.dry_run:
                self.shows.ask(added, payload.viewers)
        self._dirty = True
        return added

    def cancel(self, record: Record) -> Record:
        """Stop a job for good; one that has ended is shown in viewers no longer."""
        if record.state in ENDED:
            self.shows.end(record.id)
            return record
        if record.id not in self._active:
            return self._queue.change(record, state="cancelled", ended=time.time(), message="")
        return self._ask(record.id, "cancel", "")

    def park(self, record: Record) -> Record:
        """Stop a job until it is asked to go on."""
        if record.state in ENDED | RESTING:
            return record
        if record.id not in self._active:
            return self._queue.change(record, state="parked", message="")
        return self._ask(record.id, "park", "")

    def park_all(self) -> None:
        """Park the jobs that have a process; those that wait go on waiting."""
        for record in list(self._active.values()):
            self.park(record)

    def resume(self, record: Record) -> Record:
        """Queue a job again that rests or has ended; one that is done stays as it is."""
        if record.state not in (*RESTING, "failed", "cancelled"):
            return record
        with self._queue.transaction():
            self._give_start(record.owner)
            record = self._queue.change(record, state="queued", message="", ended=None, deaths=0, not_before=0.0)
        self._dirty = True
        return record

    def logged_in(self, owner: str) -> None:
        """Let an owner's jobs go on that need a login."""
        for record in self._queue.unended("needs_login", owner=owner):
            self.resume(record)

    def expect(self, owner: str) -> None:
        """Have a process get ready for an owner who may have a job soon."""
        self._coming[owner] = time.monotonic()

    def look(self) -> None:
        """Take note of what jobs did, and start those whose turn it is."""
        faults = []
        for job in list(self._active):
            try:
                self._look(self._active[job])
            except Exception as error:  # noqa: BLE001 - one job must not keep the server from the others
                faults.append(error)
        now = time.monotonic()
        if now - self._watched > _WATCH_S:
            self._watched = now
            self._watch()
            self._seats.sweep()
            self._prepare()
            self._dirty = True  # those that wait after a death
        if self._dirty and not self.holds:
            self._dirty = False
            self._start_those_next()
        if faults:
            raise faults[0]

    def _prepare(self) -> None:
        """Have processes get ready while cores are free, which jobs that run should not lack."""
        now = time.monotonic()
        for owner, came in list(self._coming.items()):
            if now - came > _COMING_S:
                del self._coming[owner]
        leased = sum(record.workers for record in self._active.values())
        if leased < self._machine.cores and not self.holds:
            for owner in self._coming:
                if not self._seats.is_ready(owner):
                    self._seats.prepare(owner, self._account_of(owner))

    def ahead(self, record: Record) -> int | None:
        """Count the jobs that stand before one in the queue."""
        if record.state != "queued":
            return None
        queued = self._queue.waiting()
        return sum((-one.priority, one.number) < (-record.priority, record.number) for one in queued)

    def all_ahead(self) -> dict[str, int]:
        """Count the same for all jobs in the queue, by their ids."""
        queued = sorted(self._queue.waiting(), key=lambda one: (-one.priority, one.number))
        return {record.id: place for place, record in enumerate(queued)}

    def leased(self) -> dict[str, str]:
        """Return the jobs that GPUs are leased to."""
        return {device: record.id for record in self._active.values() for device in record.devices}

    def _give_start(self, owner: str) -> None:
        """Let an owner who comes anew begin beside the others: time when they had no jobs gives no claim."""
        at_work = {record.owner for record in self._queue.unended("queued", *ACTIVE)}
        if owner in at_work:
            return
        self._queue.charge(owner, first_charge(owner, self._queue.shares(), at_work))

    def _start_those_next(self) -> None:
        now = time.time()
        queued = [record for record in self._queue.waiting() if record.not_before <= now]
        if not queued:
            return
        self._start_dry_runs([record for record in queued if record.dry_run])
        records = {record.id: record for record in queued if not record.dry_run}
        held = [self._lease(record) for record in self._active.values() if not record.dry_run]
        used = self._queue.shares()
        for record in self._active.values():
            used[record.owner] = used.get(record.owner, 0.0) + self._cost(record, now)
        for lease in self._decide(records.values(), held, used):
            self._start(records[lease.job], lease, lease)

    def _start_dry_runs(self, queued: Iterable[Record]) -> None:
        """Start those that only compile: one of each owner, without a lease, for what a job would get that is alone."""
        busy = {record.owner for record in self._active.values() if record.dry_run}
        for record in sorted(queued, key=lambda one: (-one.priority, one.number)):
            if record.owner not in busy:
                busy.add(record.owner)
                for lease in self._decide([record], [], {}):
                    self._start(record, Lease(job=record.id, owner=record.owner, workers=0), lease)

    def _decide(self, queued: Iterable[Record], held: Sequence[Lease], used: Mapping[str, float]) -> list[Lease]:
        waiting = [
            Waiting(
                job=record.id,
                owner=record.owner,
                number=record.number,
                priority=record.priority,
                workers=record.wanted,
                device=record.device,
            )
            for record in queued
        ]
        return decide(
            waiting,
            held,
            used,
            cores=self._machine.cores,
            devices=list(self._machine.devices),
            quota_of=self._settings.quota_of,
        )

    @staticmethod
    def _lease(record: Record) -> Lease:
        return Lease(job=record.id, owner=record.owner, workers=record.workers, devices=record.devices)

    def _cost(self, record: Record, now: float) -> float:
        """Return what a process has cost its owner: its lease, or a core where it only compiles."""
        return max(1, self._lease(record).weight) * (now - record.leased)

    def _start(self, record: Record, lease: Lease, seen: Lease) -> None:
        """Start a job with a lease; `seen` is what its pipeline is compiled for."""
        try:
            owner = self._account_of(record.owner)
            folder = self._folders.make_job(record.id, owner)
            orders = Orders(
                job=record.id,
                run=record.run,
                attempt=record.attempts + 1,
                repository=self.repository(record.owner),
                login=self._logins.key(record.owner) if self._logins is not None else None,
                payload=leased_payload(self._queue.payload(record), seen),
                topology=self._machine.part(seen),
            )
            with acting_as(owner):
                write_orders(folder, orders)
            seat = self._seats.take(record.owner, owner)
        except (OSError, OpenHCSError) as error:
            message = f"It cannot be started: {error}"
            self._queue.change(record, not_before=time.time() + _BACKOFF_S[-1], message=message)
            return
        with self._folders.lock(record.id) as lock:
            process = seat.id
            if lock is None or process is None:
                seat.end()
                self._queue.change(record, not_before=time.time() + _BACKOFF_S[1])
                return
            now = time.time()
            # Noted before it is handed over: from here on a server that is started again looks for the lock's holder.
            self._active[record.id] = self._queue.change(
                record,
                state="compiling",
                message="",
                attempts=record.attempts + 1,
                started=record.started or now,
                leased=now,
                workers=lease.workers,
                devices=lease.devices,
                seat=seat.mark,
                pid=process.pid,
                pid_start=process.start,
                boot=process.boot,
            )
            self.watch.add(folder, owner)
            self.watch.follow(process)
            seat.give(folder, lock)
        self._begins_by[record.id] = time.monotonic() + _BEGINNING_S
        self._coming[record.owner] = time.monotonic()

    def _places(self, record: Record) -> list[Path]:
        """List the folders in which a job's journals lie."""
        return [self._folders.job(record.id), *([Path(record.folder)] if record.folder else [])]

    def repository(self, owner: str) -> str:
        """Return the URI of the repository for an owner's jobs."""
        if self._logins is not None:
            return self._logins.address(owner).uri
        return self._settings.repository.replace("{owner}", owner)

    def _look(self, record: Record) -> None:
        process = _process_of(record)
        # What the process began may hold the lock, and have taken the mark off; the job ends with the process.
        held = self._folders.is_held(record.id) and processes.process_id(record.pid) == process
        known, record = record, self._read(record)
        if record.journal_at != known.journal_at:
            self._begins_by.pop(record.id, None)
        if held:
            kill_at = self._kill_at.get(record.id)
            if kill_at is None and record.ending:
                self._kill_at[record.id] = time.monotonic() + _LEAVING_S
            elif kill_at is not None and time.monotonic() > kill_at:
                _end_processes(record)
            elif kill_at is None and time.monotonic() > self._begins_by.get(record.id, math.inf):
                processes.send(process, SHOW_STACK)
                self._kill_at[record.id] = time.monotonic() + _STACK_S
            return
        # What it had begun is ended before its lease goes to another one.
        _end_processes(record)
        if self._read(record) is record:  # else there may be more, and the other jobs are looked at first
            self._end(record)

    def _end(self, record: Record) -> None:
        """Note that a job's process has ended, and how the job stands."""
        now = time.time()
        state: JobState
        message = record.message
        not_before, deaths = 0.0, record.deaths
        if record.asked == "fail":
            state = "failed"
        elif record.ending:
            state, message = record.ending, record.ending_message
        elif record.asked:
            state, message = ("cancelled", "") if record.asked == "cancel" else ("parked", "")
        elif (full := self._full(record)) is not None:
            state, message = "parked", full
        else:
            deaths += 1
            state, message = "queued", "Its process ended without a word; it goes on where that stopped."
            if deaths > _MOST_DEATHS:
                state = "failed"
                message = f"Its process ended without a word {deaths} times, without one more unit done."
            else:
                not_before = now + _BACKOFF_S[deaths - 1]
        with self._queue.transaction():
            used = self._queue.shares().get(record.owner, 0.0)
            self._queue.charge(record.owner, used + self._cost(record, now))
            self._queue.change(
                record,
                state=state,
                message=message,
                ended=now if state in ENDED else None,
                deaths=deaths,
                not_before=not_before,
                **_AT_REST,
            )
        self._drop_session(record)
        for folder in self._places(record):
            self.watch.remove(folder)
        self.watch.dismiss(_process_of(record))
        del self._active[record.id]
        self._kill_at.pop(record.id, None)
        self._begins_by.pop(record.id, None)
        self._folders.forget_lock(record.id)
        self._dirty = True

    def _drop_session(self, record: Record) -> None:
        """End the session of a job whose process could not."""
        if self._logins is None:
            return
        path, owner = self._folders.session(record.seat), self._account_of(record.owner)
        with suppress(OSError):
            key, _ = read_part(path, 0, 256, owner)
            with acting_as(owner):
                path.unlink()
            self._logins.drop(record.owner, key.decode(errors="replace"))

    def _full(self, record: Record) -> str | None:
        """Say so if a disk is full on which the job writes."""
        for folder in filter(None, (str(self._folders.path), record.folder)):
            with suppress(OSError):
                found = os.statvfs(folder)
                if found.f_bavail * found.f_frsize < _FULL_BYTES:
                    return f"The disk of {folder} is full. Free space there, then let the job go on."
        return None

    def _read(self, record: Record) -> Record:
        """Take what a job's process and its run have written since the last time."""
        folder, owner = self._folders.job(record.id), self._account_of(record.owner)
        read, events = news_of(record, folder, owner)
        if read == record:
            return record
        if read.folder != record.folder:
            self.watch.remove(Path(record.folder))
            self.watch.add(Path(read.folder), owner)
            read, more = news_of(read, folder, owner)  # what came before it was watched
            events += more
        read = self._queue.learn(read, events)
        self._active[record.id] = read
        if any(isinstance(event, Planned) for event in events):
            with suppress(OSError, OpenHCSError):  # whoever asks to see it is told
                self.shows.begin(read)
        return read

    def _ask(self, job: str, what: str, message: str) -> Record:
        record = self._active[job]
        if record.asked not in ("cancel", "fail"):
            record = self._queue.change(record, asked=what, message=message)
            self._active[job] = record
        self._signal(record)
        return record

    def _signal(self, record: Record) -> None:
        process = _process_of(record)
        processes.send(process, {"cancel": CANCEL, "park": PARK}.get(record.asked, signal.SIGKILL))
        self._kill_at.setdefault(record.id, time.monotonic() + _GRACE_S)

    def _watch(self) -> None:
        """End jobs that use more than they may."""
        bounds, usages = self._settings.limits, dict[str, processes.Usage]()
        accounts = {record.seat: self._account_of(record.owner).uid for record in self._active.values()}
        accounts |= self.shows.accounts
        if accounts and (bounds.memory_gb or bounds.processes):
            usages = processes.usages(accounts, limits.memory_bytes(bounds))
        for record in list(self._active.values()):
            usage, seconds = usages.get(record.seat, processes.Usage()), time.time() - record.leased
            passed = limits.exceeded(bounds, usage, seconds)
            if record.dry_run and seconds > _DRY_S:
                passed = f"It was not compiled within {_DRY_S / 60:.0f} minutes, which is all that a dry run has."
            if passed is not None and record.asked != "fail":
                self._ask(record.id, "fail", passed)
        self.shows.look(usages)


def _process_of(record: Record) -> processes.ProcessId:
    return processes.ProcessId(record.pid, record.pid_start, record.boot)


def _end_processes(record: Record) -> None:
    """Kill the process of a job, which may have taken its mark off, and all that have the mark."""
    processes.send(_process_of(record), signal.SIGKILL)
    processes.end_all(record.seat)
