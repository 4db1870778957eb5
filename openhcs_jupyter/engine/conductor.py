"""Conducts a run: hands ready units to an executor, journals how each ended, and publishes the results."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from openhcs_jupyter.compiler.plan import ExecutionPlan, Unit
from openhcs_jupyter.engine.cache import ResultCache
from openhcs_jupyter.engine.executor import Executor, Session
from openhcs_jupyter.engine.graph import UnitGraph
from openhcs_jupyter.engine.journal import Journal
from openhcs_jupyter.engine.places import Places
from openhcs_jupyter.engine.program import Failure, Outcome, Parent, Program, Work
from openhcs_jupyter.engine.publishing import publish
from openhcs_jupyter.engine.reuse import find_kept, find_starts, waypoint_address
from openhcs_jupyter.engine.store import Lock, RunFolder, removed_message
from openhcs_jupyter.engine.waypoints import Start
from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.events import AnyEvent, Notice, RunFinished, RunStarted, StoredFile, UnitDone, UnitFailed
from openhcs_jupyter.model import Image, RunRecord, RunStatus
from openhcs_jupyter.repository import Repository

OnError = Literal["continue", "stop"]
_TICK_S = 0.1


class Conductor:
    """Conducts one run, in a thread of its own.

    Parameters
    ----------
    plan
        Bound to its plate.
    program
        What workers are given.
    repository
        The run's repository, for publishing.
    record
        The run's record.
    folder
        The run's folder, made already.
    lock
        Held until the run ends.
    executor
        Does the units.
    on_error
        ``continue``: a failed unit costs what depends on it. ``stop``: it ends the run.
    unit_timeout_s
        A unit that computes longer has failed; 0 waits for ever.
    known
        Files of units that an earlier start of this run finished, by the name of their folder.
    force
        Do every unit, also those whose results are there.
    notify
        Is called after each event, when the journal has it.
    notices
        What the user should know from the start.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        program: Program,
        repository: Repository,
        record: RunRecord,
        folder: RunFolder,
        lock: Lock,
        executor: Executor,
        *,
        on_error: OnError,
        unit_timeout_s: float,
        known: dict[str, tuple[StoredFile, ...]],
        force: bool,
        notify: Callable[[], None],
        notices: Sequence[str] = (),
    ) -> None:
        self._plan = plan
        self._program = program
        self._repository = repository
        self._record = record
        self._folder = folder
        self._lock = lock
        self._executor = executor
        self._on_error = on_error
        self._unit_timeout_s = unit_timeout_s
        self._known = known
        self._force = force
        self._notify = notify
        self._cache = ResultCache(repository.runs_folder)
        self._cancelled = threading.Event()
        self._looked = 0.0
        self.unwritten: RunFinished | None = None
        """The end of the run, where its journal could not take it: a full disk. Others find the run interrupted."""
        self._session: Session | None = None
        self._places = Places(plan)
        self._graph = UnitGraph(plan)
        self._starts: dict[int, Start] = {}
        self._notices = notices
        self._noticed: set[str] = set()
        self._bytes_read = 0
        self._read_s = 0.0

    def cancel(self) -> None:
        """Ask the run to stop; it has stopped within half a second."""
        self._cancelled.set()

    @property
    def running(self) -> Sequence[int]:
        """Ids of the units that are being computed."""
        session = self._session
        return session.running if session is not None else ()

    def run(self) -> None:
        """Conduct the run to its end; every error becomes its last event."""
        try:
            with Journal(self._folder.journal) as journal:
                self._end(journal)
            if not self._folder.journal.exists():
                self.unwritten = RunFinished(time=time.time(), status="failed", message=removed_message(self._folder))
        except OSError as error:
            message = f"{error.filename}: {error.strerror}"
            self.unwritten = RunFinished(time=time.time(), status="failed", message=message)
        finally:
            self._executor.close()
            self._repository.close()
            self._lock.close()
            self._notify()

    def _end(self, journal: Journal) -> None:
        status: RunStatus = "failed"
        results = None
        try:
            status, message, results = self._conduct(journal)
        except OpenHCSError as error:
            message = str(error)
        except OSError as error:
            message = f"{error.filename or self._folder.path}: {error.strerror or error}"
        except Exception as error:  # noqa: BLE001 - the thread's last resort: a run always ends with an event
            message = f"the run broke off: {type(error).__name__}: {error}"
        journal.append(RunFinished(time=time.time(), status=status, message=message, results=results))

    def _conduct(self, journal: Journal) -> tuple[RunStatus, str, str | None]:
        self._folder.sweep()
        self._cache.flush()
        kept = find_kept(self._plan, self._graph, self._folder, self._known, None if self._force else self._cache)
        workers = self._plan.memory.workers
        self._tell(
            journal,
            RunStarted(
                time=time.time(),
                units=len(self._plan.units),
                kept=len(kept),
                workers=workers,
                pid=os.getpid(),
                where=self._executor.where,
            ),
        )
        told = self._repository.told_of(_images(self._plan))
        self._notice(journal, *self._notices, *told)
        for unit, files in kept:
            self._done(journal, unit, Outcome(unit=unit.id, files=files), reused=True)
        if self._plan.save:
            plate = self._plan.plate
            writer = self._repository.writer(self._record)
            writer.begin(self._plan.results, plate.channels, plate.rows, plate.columns)
            self._notice(journal, *writer.told)
        if not self._force:
            self._starts = find_starts(self._plan, self._graph, self._cache)
        broken: Failure | None = None
        while not self._graph.is_finished and not self._is_cancelled() and not self._executor.prepare(_TICK_S):
            pass
        if not self._graph.is_finished and not self._is_cancelled():
            with self._executor.open(
                self._program, workers=min(workers, self._graph.left), unit_timeout_s=self._unit_timeout_s
            ) as session:
                self._session = session
                try:
                    broken = self._drive(journal, session)
                finally:
                    self._session = None
            self._folder.sweep()
        self._cache.flush()
        if self._cancelled.is_set():
            return "cancelled", "It was cancelled; --resume goes on from here.", None
        if told and self._read_s:
            rate = self._bytes_read / self._read_s / 1e6
            self._notice(journal, f"{self._bytes_read / 1e6:,.1f} MB were read, {rate:,.0f} MB/s by each worker.")
        failures = self._graph.failed
        if broken is not None:
            return "failed", broken.message, None
        results = publish(self._plan, self._record, self._folder, self._repository, self._graph.finished_keys, failures)
        if failures:
            return "failed", f"{failures} of {len(self._plan.units)} units failed", results
        return "done", "", results

    def _drive(self, journal: Journal, session: Session) -> Failure | None:
        """Do the units; returns what broke the run, if anything did."""
        ready = deque(self._graph.take_ready())
        held = 0
        while ready or held:
            while ready and session.room > 0:
                unit = ready.popleft()
                session.submit(self._work(unit))
                held += 1
            outcomes = session.wait(_TICK_S)
            for outcome in outcomes:
                held -= 1
                self._notice(journal, *outcome.notices)
                unit = self._plan.units[outcome.unit]
                if outcome.waypoints is not None:
                    addresses = [waypoint_address(way, unit) for way in outcome.waypoints.ways]
                    self._cache.add_waypoints(addresses, self._folder, self._graph.key(unit), outcome.waypoints)
                self._bytes_read += outcome.bytes_read
                self._read_s += outcome.read_s
                if outcome.failure is None:
                    self._done(journal, unit, outcome)
                    self._graph.finish(unit)
                    continue
                self._fail(journal, unit, outcome.failure)
                if outcome.failure.whole_run or self._on_error == "stop":
                    session.cancel()
                    return outcome.failure
            if self._is_cancelled():
                session.cancel()
                return None
            for unit, because in self._graph.take_skipped():
                self._tell(journal, self._failed_event(unit, Failure(message=_skipped(because)), because.id))
            ready.extend(self._graph.take_ready())
        return None

    def _is_cancelled(self) -> bool:
        """Tell whether the run is to stop; looks ten times a second whether another process asked for it."""
        now = time.monotonic()
        if now - self._looked >= _TICK_S:
            self._looked = now
            if self._folder.is_asked_to_stop():
                self._cancelled.set()
        return self._cancelled.is_set()

    def _notice(self, journal: Journal, *messages: str) -> None:
        for message in messages:
            if message not in self._noticed:
                self._noticed.add(message)
                self._tell(journal, Notice(time=time.time(), message=message))

    def _fail(self, journal: Journal, unit: Unit, failure: Failure) -> None:
        self._tell(journal, self._failed_event(unit, failure, None))
        self._graph.fail(unit)

    def _done(self, journal: Journal, unit: Unit, outcome: Outcome, *, reused: bool = False) -> None:
        fingerprint = self._graph.fingerprint(unit)
        event = UnitDone(
            time=time.time(),
            unit=unit.id,
            fingerprint=fingerprint,
            files=outcome.files,
            read_s=outcome.read_s,
            compute_s=outcome.compute_s,
            write_s=outcome.write_s,
            bytes_read=outcome.bytes_read,
            reused=reused,
            steps_kept=outcome.steps_kept,
            bytes_up=outcome.bytes_up,
            bytes_down=outcome.bytes_down,
        )
        self._tell(journal, event)
        if self._plan.stages[unit.stage].kind != "save":
            self._cache.add(fingerprint, self._folder, self._graph.key(unit), outcome)

    def _failed_event(self, unit: Unit, failure: Failure, because: int | None) -> UnitFailed:
        step = None if failure.step is None else self._plan.pipeline.steps[failure.step]
        return UnitFailed(
            time=time.time(),
            unit=unit.id,
            well=unit.well,
            field=unit.field,
            step=step.name if step else None,
            line=step.line if step else None,
            message=failure.message,
            traceback=failure.traceback,
            because=because,
        )

    def _tell(self, journal: Journal, event: AnyEvent) -> None:
        journal.append(event)
        self._notify()

    def _work(self, unit: Unit) -> Work:
        units = self._plan.units
        parents = tuple(
            Parent(parent.stage, parent.well, parent.field, self._graph.key(parent))
            for parent in (units[number] for number in unit.parents)
            if self._graph.has_finished(parent)
        )
        # The root tells of parents as planned; where one of them failed, the unit begins with something else.
        rooted = bool(unit.root) and self._graph.fingerprint(unit) == unit.fingerprint
        start = self._starts.get(unit.id) if rooted else None
        if start is not None:
            self._cache.used(start.place)
        return Work(
            unit=unit,
            sources=self._places.sources(unit),
            parents=parents,
            key=self._graph.key(unit),
            start=start,
            keep=rooted and self._cache.has_room,
        )


def _images(plan: ExecutionPlan) -> list[Image]:
    """Return the images that a run reads."""
    read = {number for unit in plan.units for number in unit.images}
    return [image for _, field in plan.plate.fields() for image in field.images if image.id in read]


def _skipped(because: Unit) -> str:
    field = f" field {because.field}" if because.field is not None else ""
    return f"left out, as {because.well or 'the plate'}{field} failed"
