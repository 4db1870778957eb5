"""A run as its user sees it: status, progress, events, results."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from openhcs_jupyter.compiler.plan import ExecutionPlan, Unit
from openhcs_jupyter.compiler.problems import known
from openhcs_jupyter.engine.conductor import Conductor
from openhcs_jupyter.engine.images import Pixels
from openhcs_jupyter.engine.journal import JournalReader
from openhcs_jupyter.engine.results import read_pixels
from openhcs_jupyter.engine.store import RunFolder
from openhcs_jupyter.engine.tables import read_tables
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import (
    AnyEvent,
    Notice,
    Progress,
    RunFinished,
    RunStarted,
    StageProgress,
    UnitDone,
    UnitFailed,
)
from openhcs_jupyter.model import ResultSpec, RunRecord, RunStatus, parse_well, well_name

if TYPE_CHECKING:
    import pandas as pd

_TICK_S = 0.1
_CONDUCTED: list[Run] = []


def conducted() -> Sequence[Run]:
    """List the runs that this process conducts now."""
    return [run for run in _CONDUCTED if run._thread is not None and run._thread.is_alive()]


class Run:
    """A run: one that this process conducts, one that another process conducts, or one that has ended.

    Its events come from its journal, so all three look alike.
    """

    def __init__(self, folder: RunFolder, plan: ExecutionPlan, record: RunRecord) -> None:
        self._conductor: Conductor | None = None
        self._thread: threading.Thread | None = None
        self._news = threading.Condition()
        self._open(folder, plan, record)

    def _open(self, folder: RunFolder, plan: ExecutionPlan, record: RunRecord) -> None:
        """Begin to follow a journal from its beginning."""
        self._folder = folder
        self._plan = plan
        self._record = record
        self._reader = JournalReader(folder.journal)
        self._seen = _Seen(plan)

    def conduct(self, conductor: Conductor) -> None:
        """Begin to conduct the run in a thread of this process."""
        self._refresh()
        self._seen = _Seen(self.plan)  # how an earlier start of the run ended is past
        self._conductor = conductor
        self._thread = threading.Thread(target=conductor.run, name=f"openhcs-{self.id}")
        _CONDUCTED[:] = [*conducted(), self]
        self._thread.start()

    @property
    def plan(self) -> ExecutionPlan:
        """What is done."""
        return self._plan

    @property
    def record(self) -> RunRecord:
        """What is kept of the run for good."""
        return self._record

    @property
    def id(self) -> str:
        """The run's id."""
        return self.record.id

    @property
    def name(self) -> str:
        """The run's name, as the cell gave it."""
        return self.record.name

    @property
    def folder(self) -> Path:
        """The run's folder in the run store."""
        return self._folder.path

    @property
    def resumed_by(self) -> str:
        """What the user writes to let it go on."""
        return f"--resume {self.id}"

    @property
    def stored_at(self) -> str:
        """Where its results are kept, in words."""
        return str(self.folder)

    @property
    def status(self) -> RunStatus:
        """``running``, ``done``, ``failed``, ``cancelled``, or ``interrupted`` if its process ended before it did."""
        self._refresh()
        finished = self._seen.finished
        if finished is not None:
            return finished.status
        if (self._thread is not None and self._thread.is_alive()) or self._folder.is_conducted():
            return "running"
        self._refresh()
        return self._seen.finished.status if self._seen.finished else "interrupted"

    @property
    def message(self) -> str:
        """Why the run failed or stopped; empty if it did not."""
        self._refresh()
        return self._seen.finished.message if self._seen.finished else ""

    @property
    def results_at(self) -> str | None:
        """Where saved results are; None if there are none."""
        self._refresh()
        return self._seen.finished.results if self._seen.finished else None

    @property
    def failures(self) -> tuple[UnitFailed, ...]:
        """The units that failed by themselves, with their reasons."""
        self._refresh()
        return tuple(event for event in self._seen.failed.values() if event.because is None)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of how the run goes, though it is no failure."""
        self._refresh()
        return tuple(self._seen.notices)

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        self._refresh()
        return self._seen.progress(self.running)

    @property
    def running(self) -> Sequence[int]:
        """Ids of the units that are being computed; none where another process conducts the run."""
        return self._conductor.running if self._conductor else ()

    @property
    def where(self) -> str:
        """Where units are done, such as ``on Dask (tcp://head-node:8786)``; empty for the machine of the conductor."""
        self._refresh()
        return self._seen.where

    def events(self, *, follow: bool = True) -> Iterator[AnyEvent]:
        """Iterate over what has happened since the run was first started.

        Parameters
        ----------
        follow
            Wait for what is yet to happen, until the run has ended.
        """
        reader = JournalReader(self._folder.journal)
        while True:
            ended = not follow or self.status != "running"
            yield from reader.read()
            if ended:
                return
            with self._news:
                self._news.wait(_TICK_S)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended, up to `timeout` seconds; tells whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        end = None if timeout is None else time.monotonic() + timeout
        while self.status == "running":
            left = _TICK_S if end is None else min(_TICK_S, end - time.monotonic())
            if left <= 0:
                return False
            with self._news:
                self._news.wait(left)
        return True

    def cancel(self) -> None:
        """Stop the run, whichever process conducts it; it stops within half a second and can be resumed.

        Raises
        ------
        RunError
            If another process conducts it and its folder cannot be written.
        """
        if self._conductor is not None:
            self._conductor.cancel()
        else:
            self._folder.ask_to_stop()

    def result(self) -> Run:
        """Wait for the run and return it.

        Raises
        ------
        RunError
            If it has not ended well; tells the first failures.
        """
        self.wait()
        if self.status != "done":
            raise RunError(self.summary(), "Mend the cause, then go on with --resume.")
        return self

    def summary(self) -> str:
        """Say in a few lines how the run ended."""
        progress = self.progress
        done = sum(stage.done for stage in progress.stages)
        head = f"Run {self.name} ({self.id}) is {self.status}: {done} of {len(self.plan.units)} units done"
        head += f" {self.where}" if self.where else ""
        lines = [head + (f"; {self.message}" if self.message else "")]
        alike: dict[tuple[str | None, int | None, str], list[str]] = {}
        for event in self.failures:
            field = f" field {event.field}" if event.field is not None else ""
            alike.setdefault((event.step, event.line, event.message), []).append(f"{event.well or 'plate'}{field}")
        for (step, at, message), places in list(alike.items())[:5]:
            more = f" and {len(places) - 3} more" if len(places) > 3 else ""
            line = f" (line {at})" if at else ""
            lines.append(f"  {', '.join(places[:3])}{more}{f', step {step}' if step else ''}{line}: {message}")
        if len(alike) > 5:
            lines.append(f"  and {len(alike) - 5} other reasons")
        return "\n".join(lines)

    def table(self, name: str) -> pd.DataFrame:
        """Return a table or points: one row an object, with plate, well and field.

        Parameters
        ----------
        name
            Name of the output.

        Returns
        -------
        DataFrame
            Of all units that are done, in plate order.

        Raises
        ------
        RunError
            If the run makes no such table; lists those that it makes.
        """
        spec = self._spec(name, ("table", "points"))
        folders = self._folders([(unit.id, key) for unit, key in self._units_of(spec)], spec)
        return read_tables([folder / f"{spec.kind}.{spec.name}.arrow" for folder in folders])

    def image(self, name: str | None = None, *, well: str | None = None, field: int = 1) -> Pixels:
        """Return an image result of one field.

        Parameters
        ----------
        name
            Name of the step or output; may be left out if there is only one.
        well
            Such as ``A01``; may be left out where the result is one for the plate.
        field
            Number of the field, counted from 1.

        Returns
        -------
        ndarray of shape (T, C, Z, Y, X)
            Channels as the plan's result lists them. A read-only map of the file where there is one channel.

        Raises
        ------
        RunError
            If there is no such result, or the field is not done.
        """
        return self._pixels("image", name, well, field)

    def labels(self, name: str | None = None, *, well: str | None = None, field: int = 1) -> Pixels:
        """Return the labels of one field as ``(T, 1, Z, Y, X)`` integers, 0 is background; see `image`."""
        return self._pixels("labels", name, well, field)

    def plot(
        self,
        column: str,
        *,
        by: str | None = None,
        kind: Literal["distribution", "dose", "heatmap"] | None = None,
        table: str | None = None,
        layout: pd.DataFrame | None = None,
        ax: Any = None,
    ) -> Any:
        """Plot a column of the run's tables with matplotlib.

        Parameters
        ----------
        column
            What is plotted. The first table that has it is taken.
        by
            ``well`` or any other column: distributions side by side. ``plate``: a heat map of the wells' medians. A
            column of doses: the dose response, with a four-parameter curve. Left out: one distribution.
        kind
            Left out, it follows from `by`.
        table
            Name of the table.
        layout
            One row a well, with a column ``well`` and others to plot by, such as doses.
        ax
            Where it is drawn; left out, a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        RunError
            If no table has the column, or matplotlib is not there.
        UsageError
            If there is no such column to plot by.
        """
        from openhcs_jupyter.engine.plots import plot

        names = [table] if table else [spec.name for spec in self.plan.results if spec.kind in ("table", "points")]
        tables = {name: partial(self.table, name) for name in names}
        return plot(self.name, tables, column, by=by, kind=kind, layout=layout, ax=ax)

    def __repr__(self) -> str:
        return f"<Run {self.name!r} ({self.id}): {self.status}>"

    def notify(self) -> None:
        """Wake those who wait for news; the conductor calls it."""
        with self._news:
            self._news.notify_all()

    def _refresh(self) -> None:
        with self._news:
            for event in self._reader.read():
                self._seen.take(event)
            if self._conductor is not None and self._conductor.unwritten is not None:
                self._seen.take(self._conductor.unwritten)

    def _pixels(self, kind: str, name: str | None, well: str | None, field: int) -> Pixels:
        spec = self._spec(name, (kind,))
        place = None
        if spec.scope != "plate":
            if well is None:
                raise RunError(f"{spec.name} has an image for each {spec.scope}: name the well, well='A01'.")
            place = well_name(*parse_well(well))
        for unit, key in self._units_of(spec):
            if (place is None or unit.well == place) and unit.field in (None, field):
                (folder,) = self._folders([(unit.id, key)], spec)
                pixels = read_pixels(folder, spec, field)
                if pixels is not None:
                    return pixels
        where = f" of {place} field {field}" if place else ""
        raise RunError(f"{spec.name}{where} is not there.", "It is not done yet, failed, or is not in the run.")

    def _spec(self, name: str | None, kinds: tuple[str, ...]) -> ResultSpec:
        there = [spec for spec in self.plan.results if spec.kind in kinds]
        if name is None and len(there) == 1:
            return there[0]
        for spec in there:
            if spec.name == name:
                return spec
        hint = known(name or "", [spec.name for spec in there])
        raise RunError(f"Run {self.name} makes no {' or '.join(kinds)} {name!r}." if name else "Say which.", hint)

    def _units_of(self, spec: ResultSpec) -> list[tuple[Unit, str]]:
        """List the finished units that make a result, with the names of their folders."""
        self._refresh()
        stages = {s.index for s in self.plan.stages if spec.step in s.steps and s.kind in ("compute", "finish")}
        reducer = self.plan.steps[spec.step].kind == "reducer"
        units = []
        for number, fingerprint in sorted(self._seen.done.items()):
            unit = self.plan.units[number]
            finishes = self.plan.stages[unit.stage].kind == "finish"
            if unit.stage in stages and finishes == reducer:
                units.append((unit, msgspec.structs.replace(unit, fingerprint=fingerprint).key))
        self._require(spec, [key for _, key in units])
        return units

    def _folders(self, units: Sequence[tuple[int, str]], spec: ResultSpec) -> list[Path]:
        """Return where the files of a result lie, for units given by their ids and the names of their folders."""
        del spec
        return [self._folder.units / key for _, key in units]

    def _require(self, spec: ResultSpec, keys: Sequence[str]) -> None:
        """Check that results are still in the store: a part of them must not look like all."""
        try:
            there = {entry.name for entry in os.scandir(self._folder.units)} if keys else set()
        except FileNotFoundError:
            there = set()
        missing = sum(key not in there for key in keys)
        if missing:
            raise RunError(
                f"{spec.name}: results of {missing} of {len(keys)} units of run {self.name} ({self.id}) were removed "
                f"from {self._folder.units}.",
                f"Make them again: %openhcs replay {self.id} writes the cell into the next one.",
            )


class _Seen:
    """What the journal has told so far."""

    def __init__(self, plan: ExecutionPlan) -> None:
        self._plan = plan
        self.done: dict[int, str] = {}
        """Fingerprints of the results, by unit."""
        self.failed: dict[int, UnitFailed] = {}
        self.finished: RunFinished | None = None
        self.notices: list[str] = []
        self._started: RunStarted | None = None
        self._last = 0.0
        self._bytes = 0
        self._counts = [[0, 0] for _ in plan.stages]
        self._fresh = 0

    def take(self, event: AnyEvent) -> None:
        self._last = event.time
        if isinstance(event, RunStarted):
            self.__init__(self._plan)  # type: ignore[misc]  # a resumed run tells again what it keeps
            self._started = event
            self._last = event.time
        elif isinstance(event, UnitDone | UnitFailed) and event.unit >= len(self._plan.units):
            return  # of an earlier start, whose plan had more units
        elif isinstance(event, UnitDone):
            self.done[event.unit] = event.fingerprint
            self._counts[self._plan.units[event.unit].stage][0] += 1
            self._fresh += not event.reused
            self._bytes += event.bytes_read
        elif isinstance(event, UnitFailed):
            self.failed[event.unit] = event
            self._counts[self._plan.units[event.unit].stage][1] += 1
        elif isinstance(event, Notice):
            self.notices.append(event.message)
        else:
            self.finished = event

    @property
    def where(self) -> str:
        return self._started.where if self._started is not None else ""

    def progress(self, running: Sequence[int]) -> Progress:
        active = [0] * len(self._plan.stages)
        for unit in running:
            active[self._plan.units[unit].stage] += 1
        stages = tuple(
            StageProgress(
                name=stage.name,
                total=stage.units,
                done=self._counts[stage.index][0],
                failed=self._counts[stage.index][1],
                running=active[stage.index],
            )
            for stage in self._plan.stages
        )
        begin = self._started.time if self._started else self._last
        elapsed = (self._last if self.finished else max(self._last, time.time())) - begin if self._started else 0.0
        rate = self._fresh / elapsed if elapsed > 0 else 0.0
        left = sum(stage.total - stage.done - stage.failed for stage in stages)
        return Progress(
            stages=stages,
            elapsed_s=elapsed,
            units_per_s=rate,
            remaining_s=left / rate if rate and not self.finished else None,
            bytes_read=self._bytes,
            reused=len(self.done) - self._fresh,
        )
