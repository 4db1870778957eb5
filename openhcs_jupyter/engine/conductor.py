"""Conducts a run: hands ready units to an executor, journals how each ended, and publishes the results."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from openhcs_jupyter.compiler.plan import ExecutionPlan, Stage, Unit
from openhcs_jupyter.engine.executor import Executor, Session
from openhcs_jupyter.engine.journal import Journal
from openhcs_jupyter.engine.program import Failure, Outcome, Parent, Program, Source, Work
from openhcs_jupyter.engine.publishing import publish
from openhcs_jupyter.engine.store import Lock, RunFolder, stored_files
from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.events import AnyEvent, RunFinished, RunStarted, StoredFile, UnitDone, UnitFailed
from openhcs_jupyter.model import RunRecord, RunStatus
from openhcs_jupyter.pipeline.fingerprint import combine
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
        self._cancelled = threading.Event()
        self.unwritten: RunFinished | None = None
        """The end of the run, where its journal could not take it: a full disk. Others find the run interrupted."""
        self.running: Sequence[int] = ()
        """Ids of the units that are being computed."""
        self._places = _Places(plan)
        self._graph = _Graph(plan)

    def cancel(self) -> None:
        """Ask the run to stop; it has stopped within half a second."""
        self._cancelled.set()

    def run(self) -> None:
        """Conduct the run to its end; every error becomes its last event."""
        try:
            with Journal(self._folder.journal) as journal:
                self._end(journal)
        except OSError as error:
            message = f"{error.filename}: {error.strerror}"
            self.unwritten = RunFinished(time=time.time(), status="failed", message=message)
        finally:
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
        kept = self._kept()
        workers = self._plan.memory.workers
        self._tell(
            journal,
            RunStarted(
                time=time.time(),
                units=len(self._plan.units),
                kept=len(kept),
                workers=workers,
                pid=os.getpid(),
            ),
        )
        for unit, files in kept:
            self._tell(journal, self._done_event(unit, Outcome(unit=unit.id, files=files), reused=True))
        if self._plan.save:
            plate = self._plan.plate
            self._repository.writer(self._record).begin(self._plan.results, plate.channels, plate.rows, plate.columns)
        broken: Failure | None = None
        if not self._graph.is_finished:
            with self._executor.open(
                self._program, workers=min(workers, self._graph.left), unit_timeout_s=self._unit_timeout_s
            ) as session:
                broken = self._drive(journal, session)
            self._folder.sweep()
        if self._cancelled.is_set():
            return "cancelled", "It was cancelled; --resume goes on from here.", None
        failures = self._graph.failed
        if broken is not None:
            return "failed", broken.message, None
        results = publish(self._plan, self._record, self._folder, self._repository, self._graph.finished_keys, failures)
        if failures:
            return "failed", f"{failures} of {len(self._plan.units)} units failed", results
        return "done", "", results

    def _kept(self) -> list[tuple[Unit, tuple[StoredFile, ...]]]:
        """Find the units whose results are there already, in the plan's order; remove results that are damaged."""
        kept = []
        for unit in self._plan.units:
            # Of a unit whose parents are to be done, the address that it has if they are done well.
            key = self._graph.key(unit) if self._graph.is_ready(unit) else unit.key
            files = self._known.get(key)
            if self._force or not self._folder.holds(key, files):
                self._folder.remove(key)
            elif self._graph.is_ready(unit):
                kept.append((unit, stored_files(self._folder.units / key) if files is None else files))
                self._graph.finish(unit)
        return kept

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
            self.running = session.running
            for outcome in outcomes:
                held -= 1
                unit = self._plan.units[outcome.unit]
                if outcome.failure is None:
                    self._tell(journal, self._done_event(unit, outcome))
                    self._graph.finish(unit)
                    continue
                self._fail(journal, unit, outcome.failure)
                if outcome.failure.whole_run or self._on_error == "stop":
                    session.cancel()
                    return outcome.failure
            if self._cancelled.is_set():
                session.cancel()
                return None
            for unit, because in self._graph.take_skipped():
                self._tell(journal, self._failed_event(unit, Failure(message=_skipped(because)), because.id))
            ready.extend(self._graph.take_ready())
        self.running = ()
        return None

    def _fail(self, journal: Journal, unit: Unit, failure: Failure) -> None:
        self._tell(journal, self._failed_event(unit, failure, None))
        self._graph.fail(unit)

    def _done_event(self, unit: Unit, outcome: Outcome, *, reused: bool = False) -> UnitDone:
        return UnitDone(
            time=time.time(),
            unit=unit.id,
            fingerprint=self._graph.fingerprint(unit),
            files=outcome.files,
            read_s=outcome.read_s,
            compute_s=outcome.compute_s,
            write_s=outcome.write_s,
            bytes_read=outcome.bytes_read,
            reused=reused,
        )

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
        return Work(unit=unit, sources=self._places.sources(unit), parents=parents, key=self._graph.key(unit))


class _Places:
    """The source images of each unit's place."""

    def __init__(self, plan: ExecutionPlan) -> None:
        chosen = {image for unit in plan.units for image in unit.images}
        self._by_field: dict[tuple[str, int], tuple[Source, ...]] = {}
        self._by_well: dict[str, tuple[Source, ...]] = {}
        for well, field in plan.plate.fields():
            for image in field.images:
                if image.id in chosen:
                    source = Source(field=field.number, image=image, position_um=field.position_um)
                    self._by_field[well.name, field.number] = (source,)
                    self._by_well[well.name] = (*self._by_well.get(well.name, ()), source)

    def sources(self, unit: Unit) -> tuple[Source, ...]:
        if unit.well is None:
            return ()
        if unit.field is None:
            return self._by_well.get(unit.well, ())
        return self._by_field.get((unit.well, unit.field), ())


class _Graph:
    """Which units are ready, finished, failed; and the address of each one's results as they turn out.

    A table or a reducer's merge takes what there is when some of its parents failed; its results then have an address
    of their own, so that they are made anew when the parents are mended. Whatever needs a failed parent's pixels is
    skipped.
    """

    def __init__(self, plan: ExecutionPlan) -> None:
        self._plan = plan
        self._open = [len(unit.parents) for unit in plan.units]
        self._children: list[list[int]] = [[] for _ in plan.units]
        for unit in plan.units:
            for parent in unit.parents:
                self._children[parent].append(unit.id)
        self._state = ["waiting"] * len(plan.units)
        self._ready: list[Unit] = [unit for unit in plan.units if not unit.parents]
        self._skipped: list[tuple[Unit, Unit]] = []
        self._fingerprints: dict[int, str] = {}
        self.left = len(plan.units)
        self.failed = 0

    @property
    def is_finished(self) -> bool:
        return self.left == 0

    @property
    def finished_keys(self) -> list[tuple[Unit, str]]:
        """Units that have results, with the names of their folders."""
        return [(unit, self.key(unit)) for unit in self._plan.units if self._state[unit.id] == "done"]

    def is_ready(self, unit: Unit) -> bool:
        return self._open[unit.id] == 0 and self._state[unit.id] == "waiting"

    def has_finished(self, unit: Unit) -> bool:
        return self._state[unit.id] == "done"

    def take_ready(self) -> list[Unit]:
        ready, self._ready = [unit for unit in self._ready if self._state[unit.id] == "waiting"], []
        return ready

    def take_skipped(self) -> list[tuple[Unit, Unit]]:
        """Give the units that cannot be done any more, each with the one that failed."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def finish(self, unit: Unit) -> None:
        self._end(unit, "done")

    def fail(self, unit: Unit) -> None:
        self.failed += 1
        self._end(unit, "failed")

    def fingerprint(self, unit: Unit) -> str:
        """Address of a unit's results, which tells parents that failed from those that did not."""
        known = self._fingerprints.get(unit.id)
        if known is None:
            units = self._plan.units
            parents = [units[number] for number in unit.parents]
            changed = [
                self.fingerprint(parent) if self._state[parent.id] == "done" else f"without {parent.fingerprint}"
                for parent in parents
                if self._state[parent.id] != "done" or self.fingerprint(parent) != parent.fingerprint
            ]
            known = self._fingerprints[unit.id] = combine(unit.fingerprint, *changed) if changed else unit.fingerprint
        return known

    def key(self, unit: Unit) -> str:
        fingerprint = self.fingerprint(unit)
        if fingerprint == unit.fingerprint:
            return unit.key
        return msgspec.structs.replace(unit, fingerprint=fingerprint).key

    def _end(self, unit: Unit, state: str) -> None:
        self._state[unit.id] = state
        self.left -= 1
        for number in self._children[unit.id]:
            self._open[number] -= 1
            child = self._plan.units[number]
            if self._open[number] == 0 and self._state[number] == "waiting":
                cause = self._missing(child)
                if cause is None:
                    self._ready.append(child)
                else:
                    self._skipped.append((child, cause))
                    self._end(child, "skipped")

    def _missing(self, unit: Unit) -> Unit | None:
        """Return the parent without which a unit cannot be done, if there is one."""
        parents = [self._plan.units[number] for number in unit.parents]
        failed = [parent for parent in parents if self._state[parent.id] != "done"]
        if not failed:
            return None
        takes_what_there_is = self._takes_part(self._plan.stages[unit.stage]) and len(failed) < len(parents)
        return None if takes_what_there_is else failed[0]

    def _takes_part(self, stage: Stage) -> bool:
        if stage.kind in ("merge", "finish"):
            return True
        tables_only = all(self._plan.steps[index].kind == "table" for index in stage.steps)
        return stage.kind == "compute" and tables_only


def _skipped(because: Unit) -> str:
    field = f" field {because.field}" if because.field is not None else ""
    return f"left out, as {because.well or 'the plate'}{field} failed"
